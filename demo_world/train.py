"""`python -m demo_world.train`: the demo checkpoint from nothing, in three stages that can be resumed."""

import argparse
import shutil
from pathlib import Path

import cascade_core
from cascade_core.config import find_card
from demo_world import dataset, train_transformer, train_vae
from demo_world.dataset import make_dataset
from demo_world.export import save_checkpoint
from demo_world.tokenizer import make_tokenizer

CHECKPOINT = Path(cascade_core.__file__).parent / "cards" / "demo"
"""Where the card finds it: what comes with the engine needs no demo world."""


def main() -> None:
    """Train what is not trained yet, then write the checkpoint."""
    options = _parser().parse_args()
    compiled = options.compile == "yes" or (options.compile == "auto" and shutil.which("g++") is not None)
    card = find_card(options.card)
    tokenizer = make_tokenizer()
    vae = train_vae.train_vae(options.work, seed=options.seed, num_steps=options.vae_steps)
    clips = make_dataset(vae, options.work / "clips", seed=options.seed, num_clips=options.clips)
    model = train_transformer.train_transformer(
        card, clips, tokenizer, options.work, compiled=compiled, seed=options.seed, num_steps=options.steps
    )
    save_checkpoint(options.out, model.blocks.model, model.text_encoder, tokenizer, vae)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo_world.train", description=__doc__)
    add = parser.add_argument
    add("--card", default="demo", help="model card: a name or a .toml file (default: demo)")
    add("--work", type=Path, default=Path("out/train"), help="state and clips, to go on from (out/train)")
    add("--out", type=Path, default=CHECKPOINT, help="where the checkpoint goes (cascade_core/cards/demo)")
    add("--seed", type=int, default=0, help="of everything random (0)")
    add("--vae-steps", type=_positive, default=train_vae.NUM_STEPS, help="default: %(default)s")
    add("--clips", type=_positive, default=dataset.NUM_CLIPS, help="default: %(default)s")
    add("--steps", type=_positive, default=train_transformer.NUM_STEPS, help="default: %(default)s")
    add("--compile", choices=("auto", "yes", "no"), default="auto", help="auto: where there is a g++")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


if __name__ == "__main__":
    main()
