import pytest
import torch

from sgm_plugins.networks.clips import check_tokens, frames_per_clip, one_per_row


def test_the_call_wins_over_the_constructor():
    assert frames_per_clip(6, 3, 2) == 3
    assert frames_per_clip(6, None, 2) == 2


@pytest.mark.parametrize(
    ("given", "message"), [(None, "is unknown: give it"), (4, "is 4, which does not divide.*6 rows"), (0, "is 0")]
)
def test_clips_that_are_not_whole_are_refused(given, message):
    with pytest.raises(ValueError, match=f"num_video_frames {message}"):
        frames_per_clip(6, given, None)


def test_an_indicator_per_clip_and_frame_is_one_per_row():
    indicator = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    expected = [False, True, False, True, False, True]
    assert one_per_row(indicator, 6).tolist() == one_per_row(indicator.flatten(), 6).tolist() == expected
    assert one_per_row(None, 6) is None


def test_an_indicator_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"image_only_indicator is \(2, 2\) for a batch of 6 rows"):
        one_per_row(torch.zeros(2, 2), 6)


@pytest.mark.parametrize(
    ("tokens", "width", "message"),
    [
        (None, 5, r"missing.*\(6, tokens, 5\)"),
        (torch.zeros(6, 1, 5), None, r"\(6, 1, 5\), but this network takes none"),
        (torch.zeros(3, 1, 5), 5, r"\(3, 1, 5\); this network takes \(6, tokens, 5\) or \(2, tokens, 5\)"),
        (torch.zeros(6, 5), 5, r"\(6, 5\); this"),
        (torch.zeros(6, 1, 4), 5, r"\(6, 1, 4\); this"),
    ],
)
def test_tokens_that_do_not_fit_are_refused_and_others_pass(tokens, width, message):
    check_tokens("cond_view", torch.zeros(2, 9, 5), 5, 6, 2)
    with pytest.raises(ValueError, match=f"cond_view is {message}"):
        check_tokens("cond_view", tokens, width, 6, 2)
