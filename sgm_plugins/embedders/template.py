"""What stands around a prompt, for language models that expect it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLACE = "{prompt}"
"""Where the prompt goes in a template."""

CHAT = "chat"
"""In place of a template: the tokenizer's own for messages."""


class Template:
    """A text around a prompt, or the chat template of a tokenizer with the prompt as the user's message.

    Args:
        text: with `{prompt}` in it, or "chat".
        system: the message of the system before the user's; of a chat.
        options: further arguments of the chat template, `enable_thinking` say.

    Raises:
        ValueError: a text without `{prompt}`; system or options without a chat.
    """

    def __init__(self, text: str, system: str | None, options: Mapping[str, Any] | None) -> None:
        self.text, self.system, self.options = text, system, dict(options or {})
        if text != CHAT and PLACE not in text:
            raise ValueError(f"template is {text!r}; a text with {PLACE} in it, or {CHAT!r}, would work")
        if text != CHAT and (system is not None or self.options):
            raise ValueError(f"system and chat_options are about a chat: write `template: {CHAT}`, or leave them out")

    def around(self, prompt: str, tokenizer: Any) -> str:
        """The whole text for a prompt.

        Raises:
            ValueError: a chat, and the tokenizer has no template for one.
        """
        if self.text != CHAT:
            return self.text.replace(PLACE, prompt)
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"template is {CHAT!r}, and the tokenizer has no chat template: give a text with {PLACE} in it"
            )
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": prompt})
        whole: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **self.options)
        return whole

    def before(self, tokenizer: Any) -> str:
        """What comes before every prompt."""
        return self.around(PLACE, tokenizer).partition(PLACE)[0]
