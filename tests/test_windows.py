import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vagitus.windows import cut_window, loudest_stretch, window_starts


def test_starts_by_hand() -> None:
    assert window_starts(10, 4, 2).tolist() == [0, 2, 4, 6]
    assert window_starts(11, 4, 2).tolist() == [0, 2, 4, 6, 7]  # the last window ends on the last frame
    assert window_starts(3, 4, 2).tolist() == [0]


@given(st.integers(1, 500), st.integers(1, 80), st.data())
def test_windows_cover_every_frame_and_stay_inside(n_frames: int, window: int, data: st.DataObject) -> None:
    starts = window_starts(n_frames, window, data.draw(st.integers(1, window)))
    covered = np.unique((starts[:, None] + np.arange(window)).ravel())
    assert set(range(n_frames)) <= set(covered.tolist())
    assert starts[-1] + window <= max(n_frames, window)
    assert len(set(starts.tolist())) == len(starts)


def test_a_short_recording_is_repeated_not_padded() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert cut_window(x, 1, 5).tolist() == [[1, 2, 0, 1, 2], [4, 5, 3, 4, 5]]


def test_a_long_recording_is_cut_without_a_copy() -> None:
    x = np.zeros((2, 9), np.float32)
    assert np.shares_memory(cut_window(x, 3, 5), x)
    assert cut_window(x, 3, 5).shape == (2, 5)


def test_a_length_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be >= 1, got 0, 4, 2"):
        window_starts(0, 4, 2)


def test_the_loudest_stretch_is_found_and_its_margins_end_with_the_recording() -> None:
    features = np.arange(20, dtype=np.float32).reshape(2, 10)
    level = np.array([-9, -9, 3, 4, -9, -9, -9, 2, 2, -9], np.float32)
    np.testing.assert_array_equal(loudest_stretch(features, level, 2, 0), features[:, 2:4])
    np.testing.assert_array_equal(loudest_stretch(features, level, 2, 3), features[:, 0:7])
    np.testing.assert_array_equal(loudest_stretch(features, level - 1e3, 2, 1), features[:, 1:5])
    np.testing.assert_array_equal(loudest_stretch(features, level, 10, 1), features)
