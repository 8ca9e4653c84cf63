"""`python -m demo_world.train`: the demo checkpoint from nothing, in stages that can be resumed."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

import cascade_core
from cascade_core.config import find_card
from cascade_core.errors import CascadeError
from demo_world import dataset, train_transformer, train_vae
from demo_world.dataset import make_dataset
from demo_world.export import save_checkpoint
from demo_world.tokenizer import make_tokenizer
from demo_world.training import FORMATS

CHECKPOINT = Path(cascade_core.__file__).parent / "cards" / "demo"
"""Where the card finds it: what comes with the engine needs no demo world."""


def main(argv: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(argv)
    try:
        train(options)
    except CascadeError as error:
        sys.exit(f"demo_world.train: {error}")
    except KeyboardInterrupt:
        print("demo_world.train: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def train(options: argparse.Namespace) -> None:
    """Train what is not trained yet, then write the checkpoint. Raises CascadeError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    compiled = options.compile == "yes" or (options.compile == "auto" and shutil.which("g++") is not None)
    card = find_card(options.card)
    tokenizer = make_tokenizer()
    vae = _vae(options)
    clips = make_dataset(vae, options.work / "clips", seed=options.seed, num_clips=options.clips)
    model = train_transformer.train_transformer(
        card,
        clips,
        tokenizer,
        options.work,
        compiled=compiled,
        seed=options.seed,
        num_steps=options.steps,
        start=options.start,
        number_format=options.format,
    )
    save_checkpoint(options.out, model.blocks.model, model.text_encoder, tokenizer, vae)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


def _vae(options: argparse.Namespace) -> AutoencoderKLWan:
    folder = options.vae or options.start
    if folder is None:
        return train_vae.train_vae(
            options.work, seed=options.seed, num_steps=options.vae_steps, number_format=options.format
        )
    return train_vae.load_vae(folder / "vae")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo_world.train", description=__doc__)
    add = parser.add_argument
    add("--card", default="demo", help="model card: a name or a .toml file (default: demo)")
    add("--work", type=Path, default=Path("out/train"), help="state and clips, to go on from (out/train)")
    add("--out", type=Path, default=CHECKPOINT, help="where the checkpoint goes (cascade_core/cards/demo)")
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--vae", type=_checkpoint, help="a checkpoint whose VAE is kept, instead of training one")
    add("--from", type=_checkpoint, dest="start", help="a checkpoint to train on: no VAE, no joint phase")
    add("--vae-steps", type=_positive, default=train_vae.NUM_STEPS, help="default: %(default)s")
    add("--clips", type=_positive, default=dataset.NUM_CLIPS, help="default: %(default)s")
    add("--steps", type=_positive, default=train_transformer.NUM_STEPS, help="default: %(default)s")
    add("--threads", type=_positive, help="of this process (default: one for each core)")
    add("--format", choices=FORMATS, help="of numbers (default: the one that measures fastest at the start)")
    add("--compile", choices=("auto", "yes", "no"), default="auto", help="auto: where there is a g++")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _checkpoint(text: str) -> Path:
    folder = Path(text)
    if not (folder / "vae").is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not the folder of a checkpoint: there is no vae/ in it")
    return folder


if __name__ == "__main__":
    main()
