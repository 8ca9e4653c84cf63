"""The picture that a video begins with, as a stage takes it from the wire."""

from dataclasses import replace

import numpy as np
import pytest

from cascade.v1 import common_pb2, stage_pb2
from cascade_core.config import find_card
from cascade_core.request import SessionRequest
from services.common.validation import InvalidField
from services.stage.opening import with_first_frame

CARD = replace(find_card("demo"), image_start="first_frame")
REQUEST = SessionRequest({0: "a cat"}, width=96, height=96)
Open = stage_pb2.GenerateRequest.Open


def opening(latents: np.ndarray) -> Open:
    tensor = common_pb2.Tensor(
        dtype=common_pb2.DATA_TYPE_FLOAT32, shape=latents.shape, data=latents.astype(np.float32).tobytes()
    )
    return Open(first_frame=tensor)


def test_it_is_one_latent_frame_of_block_0() -> None:
    latents = np.random.default_rng(0).standard_normal((1, 16, 12, 12), np.float32)
    found = with_first_frame(opening(latents), REQUEST, CARD).first_frame
    assert found is not None
    np.testing.assert_array_equal(found, latents)
    assert with_first_frame(Open(), REQUEST, CARD) is REQUEST


@pytest.mark.parametrize(
    ("card", "request_", "shape"),
    [
        (find_card("demo"), REQUEST, (1, 16, 12, 12)),
        (CARD, replace(REQUEST, start_block=3), (1, 16, 12, 12)),
        (CARD, REQUEST, (3, 16, 12, 12)),
    ],
)
def test_what_does_not_fit_names_it(card: object, request_: SessionRequest, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidField, match=r"open\.first_frame"):
        with_first_frame(opening(np.zeros(shape)), request_, card)  # type: ignore[arg-type]
