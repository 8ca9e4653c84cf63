"""The parts of a stage that need no ranks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cascade.v1 import common_pb2, stage_pb2
from cascade_core.config import EngineConfig, LoraConfig, find_card, make
from cascade_core.engine.engine import Engine
from cascade_core.engine.session import TickTiming
from cascade_core.errors import WeightsError
from cascade_core.schedule import Work
from cascade_core.weights.locate import ModelFiles
from services.common.errors import RequestIdReused
from services.common.validation import InvalidField
from services.stage import receipts as receipts_module
from services.stage.messages import tick, words_of
from services.stage.opening import check_open
from services.stage.receipts import Receipts
from services.stage.revision import digest, find_revision
from services.stage.tensors import BFLOAT16, FLOAT32, from_tensor, to_tensor
from tests.support import write_card


class TestTensors:
    @pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
    def test_there_and_back(self, dtype: common_pb2.DataType.ValueType) -> None:
        latents = torch.randn(3, 16, 4, 6).to(torch.bfloat16).float()
        tensor = to_tensor(latents.transpose(2, 3), dtype)
        assert tuple(tensor.shape) == (3, 16, 6, 4)
        back = from_tensor("x", tensor, (3, 16, 6, 4))
        assert back.dtype == np.float32
        assert np.array_equal(back, latents.transpose(2, 3))

    def test_bfloat16_is_rounded_as_torch_does(self) -> None:
        """Ties, the largest numbers, subnormal ones, and what is no number."""
        edges = torch.tensor(
            [0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x00000001, 0x7F800001, 0x7FFFFFFF, 0x7F800000]
        )
        values = torch.cat([edges.int().view(torch.float32), 100 * torch.randn(100_000)])
        expected = torch.cat([values, -values]).to(torch.bfloat16)
        ours = to_tensor(torch.cat([values, -values]).view(1, 1, 1, -1), BFLOAT16)
        found = torch.frombuffer(bytearray(ours.data), dtype=torch.bfloat16)
        assert torch.equal(found.isnan(), expected.isnan())
        assert torch.equal(found[~found.isnan()], expected[~expected.isnan()])

    def test_float32_is_not_copied_on_its_way_in(self) -> None:
        data = torch.ones(4).numpy().tobytes()

        class Tensor:
            dtype, shape = FLOAT32, [1, 1, 2, 2]

        Tensor.data = data  # type: ignore[attr-defined]
        latents = from_tensor("x", Tensor, (1, 1, 2, 2))  # type: ignore[arg-type]
        assert np.shares_memory(latents, np.frombuffer(data, np.uint8))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
    def test_numbers_that_are_not_finite(self, value: float, dtype: common_pb2.DataType.ValueType) -> None:
        tensor = to_tensor(torch.tensor([1.0, value]).view(1, 1, 1, 2), dtype)
        with pytest.raises(InvalidField, match=r"x\.data: must be finite"):
            from_tensor("x", tensor, (1, 1, 1, 2))

    def test_wrong_shape_and_wrong_length(self) -> None:
        tensor = to_tensor(torch.ones(1, 1, 2, 2), FLOAT32)
        with pytest.raises(InvalidField, match=r"x\.shape"):
            from_tensor("x", tensor, (1, 1, 4, 1))
        tensor.data = tensor.data[:-1]
        with pytest.raises(InvalidField, match=r"x\.data: must be 16 bytes"):
            from_tensor("x", tensor, (1, 1, 2, 2))


class TestOpening:
    @pytest.mark.parametrize(
        ("width", "height", "field"), [(48, 64, "width"), (64, 48, "height"), (64, 32, "")]
    )
    def test_sides_are_multiples_of_what_the_vae_wants(
        self, tmp_path: Path, width: int, height: int, field: str
    ) -> None:
        path = write_card(tmp_path / "tiny.toml", vae_factor=16)
        engine = Engine(make(EngineConfig, {"model": str(path)}))
        message = stage_pb2.GenerateRequest.Open(model="tiny", prompts={0: "x"}, width=width, height=height)
        if not field:
            assert check_open(message, engine).height == height
            return
        with pytest.raises(InvalidField, match=rf"open\.{field}: 48 is not a multiple of 32 in 32\.\.4096"):
            check_open(message, engine)


class TestReceipts:
    def test_an_unset_mode_is_immediate(self) -> None:
        receipts = Receipts()
        switch = stage_pb2.GenerateRequest.SwitchPrompt(request_id="a", text="x")
        first, is_new = receipts.enter(switch)
        assert is_new
        switch.mode = common_pb2.SWITCH_MODE_IMMEDIATE
        assert receipts.enter(switch) == (first, False)
        switch.mode = common_pb2.SWITCH_MODE_RECACHE
        with pytest.raises(RequestIdReused):
            receipts.enter(switch)

    def test_they_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(receipts_module, "MAX_KEPT", 2)
        receipts = Receipts()
        for request_id in "abc":
            receipts.enter(stage_pb2.GenerateRequest.SwitchPrompt(request_id=request_id, text="x"))
        assert [bool(receipts.find(request_id)) for request_id in "abc"] == [False, True, True]


class TestRevision:
    def files(self, folder: Path, content: bytes = b"weights") -> ModelFiles:
        (folder / "transformer").mkdir(parents=True)
        (folder / "transformer" / "a.safetensors").write_bytes(content)
        (folder / "tokenizer.json").write_text("{}")
        return ModelFiles(folder / "transformer", tokenizer=folder / "tokenizer.json", vae=folder / "nothing")

    def test_it_is_of_the_content_and_not_of_the_place(self, tmp_path: Path) -> None:
        one, two = self.files(tmp_path / "one"), self.files(tmp_path / "two")
        assert digest(one) == digest(two)
        assert digest(self.files(tmp_path / "three", b"other")) != digest(one)
        (tmp_path / "two" / "transformer" / "a.safetensors").rename(
            tmp_path / "two" / "transformer" / "b.safetensors"
        )
        assert digest(two) != digest(one)

    def test_it_is_of_the_loras_and_their_scales_too(self, tmp_path: Path) -> None:
        files, path = self.files(tmp_path), tmp_path / "lora.safetensors"
        path.write_bytes(b"lora")
        lora = LoraConfig(repo="owner/name", path=path.name)
        some = [files, replace(files, lora=((lora, path),))]
        some.append(replace(files, lora=((replace(lora, strength=0.5), path),)))
        some.append(replace(files, lora=((lora, path), (lora, path))))
        digests = {digest(each) for each in some}
        (tmp_path / "adapter_config.json").write_text("{}")
        assert len(digests | {digest(some[1])}) == len(some) + 1

    def test_files_that_are_gone_say_so(self, tmp_path: Path) -> None:
        self.files(tmp_path)
        with pytest.raises(WeightsError, match=r"gone has no files"):
            digest(ModelFiles(tmp_path / "gone"))

    def test_a_file_that_cannot_be_read_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError("input/output error")

        files = self.files(tmp_path)
        monkeypatch.setattr("hashlib.file_digest", fail)
        with pytest.raises(WeightsError, match=r"cannot be read: input/output error"):
            digest(files)

    def test_random_and_bundled(self) -> None:
        card = find_card("demo")
        assert find_revision(make(EngineConfig, {"model": "demo", "weights": "random"}), card) == "random"
        bundled = find_revision(make(EngineConfig, {"model": "demo"}), card)
        assert bundled.startswith("sha256:")
        quantized = find_revision(make(EngineConfig, {"model": "demo", "quantize": "fp8"}), card)
        assert quantized == f"{bundled}+fp8"
        assert len(quantized) <= 128


def test_a_tick_has_no_more_passes_than_the_contract_allows() -> None:
    many = tuple(Work(block, 4, 0) for block in range(100))
    message = tick(TickTiming(3, 0.5, (many[::2], many[1::2])))
    assert (message.index, message.compute_time.ToMilliseconds()) == (3, 500)
    assert [(item.block, item.pass_index, item.rank) for item in message.passes] == [
        (block, 4, block % 2) for block in range(64)
    ]


def test_unknown_words_are_cut_to_the_contract() -> None:
    words = words_of(["x" * 200] * 100)
    assert (len(words), len(words[0])) == (64, 128)
