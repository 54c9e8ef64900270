"""A part that is built later, if ever. Standard library only: a hint must not cost an import."""

from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T", covariant=True)


@runtime_checkable
class Lazy(Protocol[T]):
    """A component that was checked and is not built: `part: Lazy[Embedder]` in a constructor asks for one.

    Its module is not even imported where its source tells what it takes. It draws random numbers of its own, from what
    the config says of it: its weights are a function of that, whenever it is built.

    Attributes:
        spec: its config, as `sgm.build` takes it.
    """

    @property
    def spec(self) -> Any: ...

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Build it: equal objects, however often. What is given goes to the constructor, over what the config says.

        Raises:
            ConfigError: it does not take what its source seemed to take.
            BuildError: its constructor refused its arguments.
        """
