"""From the contracts to Python stubs, and the checks on the way.

python proto/generate.py              write the stubs into cascade/v1 and externalscaler
python proto/generate.py --check      lint, format, drift of stubs, breaking changes; writes nothing
python proto/generate.py --release    from now on compare with the contracts as they are

`buf/validate/validate.proto` is in no package that pip installs, and buf cannot fetch it without a network.
But protovalidate's wheel holds its descriptor, which is all that protoc needs. The stubs are then generated
from descriptors that no longer import it: the rules stay in them, as options that only a validator reads,
and a client needs no protovalidate.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import google.rpc.status_pb2
import grpc_tools
import protovalidate
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "proto"
STUBS = ROOT / "cascade"
SCALER_STUBS = ROOT / "externalscaler"
"""KEDA's interface, not ours to name or to change: neither linted nor compared with a release."""
RELEASED = SOURCES / "released.binpb"
"""The contracts that clients in the field were made with: descriptors without comments."""
RULES = "buf/validate/validate.proto"
PACKAGES = "cascade"
BIN = Path(sys.executable).parent
INCLUDES = [Path(grpc_tools.__file__).parent / "_proto", Path(google.rpc.status_pb2.__file__).parents[2]]
DEADLINE_S = 120


class CheckFailed(Exception):
    """What is wrong, and what to do."""


def run(*command: str | Path) -> None:
    """Run a tool; CheckFailed holds all that it says."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S)
    if done.returncode:
        raise CheckFailed((done.stdout + done.stderr).strip())


def protoc(*arguments: str | Path) -> None:
    run(sys.executable, "-m", "grpc_tools.protoc", *arguments)


def buf(*arguments: str | Path) -> None:
    run(BIN / "buf", *arguments)


def source_names(sources: Path) -> list[str]:
    return sorted(str(path.relative_to(sources)) for path in sources.rglob("*.proto"))


def compile_sources(sources: Path, work: Path) -> Path:
    """The contracts and all they import, with comments, as a descriptor set that buf reads too."""
    rules = FileDescriptorProto.FromString(protovalidate.ViolationPb.desc().file.proto.to_binary())
    rules_file, image = work / "rules.binpb", work / "image.binpb"
    rules_file.write_bytes(FileDescriptorSet(file=[rules]).SerializeToString())
    includes = [f"-I{path}" for path in (sources, *INCLUDES)]
    keep = ["--include_imports", "--include_source_info", f"-o{image}"]
    protoc(f"--descriptor_set_in={rules_file}", *includes, *keep, *source_names(sources))
    return image


def without_rules_import(image: Path) -> FileDescriptorSet:
    """The descriptor set without the rules' own file and its imports; what they say stays in the options."""
    files = FileDescriptorSet.FromString(image.read_bytes())
    kept = FileDescriptorSet()
    for file in files.file:
        if file.name == RULES:
            continue
        if RULES in file.dependency:
            file.dependency.remove(RULES)
        kept.file.append(file)
    return kept


def write_stubs(sources: Path, work: Path, out: Path) -> None:
    """Generate every stub below `out`, in a folder per package."""
    bare = work / "bare.binpb"
    bare.write_bytes(without_rules_import(compile_sources(sources, work)).SerializeToString())
    plugins = [f"--plugin={name}={BIN / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    stubs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    types = [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"]
    protoc(f"--descriptor_set_in={bare}", *plugins, *stubs, *types, *source_names(sources))


def read_stubs(folder: Path) -> dict[str, bytes]:
    """Every generated file, by its path in the folder."""
    paths = (path for kind in ("*_pb2*.py", "*_pb2*.pyi") for path in folder.rglob(kind))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def find_drift(fresh: Path, committed: Path) -> list[str]:
    """Generated files that are missing, left over or different."""
    expected, present = read_stubs(fresh), read_stubs(committed)
    return sorted(name for name in expected | present if expected.get(name) != present.get(name))


def check_stubs(sources: Path, work: Path, committed: Path) -> None:
    """The stubs in the folder `committed`, which has the name of their package. Raises CheckFailed."""
    fresh = work / "stubs"
    fresh.mkdir(exist_ok=True)
    write_stubs(sources, work, fresh)
    if drift := find_drift(fresh / committed.name, committed):
        raise CheckFailed(f"stubs are not what proto/ generates; run `make proto`: {', '.join(drift)}")


def check_contracts(sources: Path, work: Path, released: Path) -> None:
    """Format, lint, and compatibility with what was released. Raises CheckFailed."""
    image = compile_sources(sources, work)
    only = ["--config", ROOT / "buf.yaml", "--path", PACKAGES]
    buf("format", "--exit-code", "--diff", sources)
    buf("lint", image, *only)
    buf("breaking", image, *only, "--against", released)


def release(sources: Path, work: Path, released: Path) -> None:
    """Replace what later contracts are compared with."""
    files = without_rules_import(compile_sources(sources, work))
    for file in files.file:
        file.ClearField("source_code_info")
    released.write_bytes(files.SerializeToString(deterministic=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check", action="store_true", help="write nothing; fail where something is wrong")
    modes.add_argument("--release", action="store_true", help="make the contracts as they are the promise")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            if options.check:
                check_contracts(SOURCES, work, RELEASED)
                check_stubs(SOURCES, work, STUBS)
                check_stubs(SOURCES, work, SCALER_STUBS)
            elif options.release:
                release(SOURCES, work, RELEASED)
            else:
                for folder in (STUBS, SCALER_STUBS):
                    for name in read_stubs(folder):
                        (folder / name).unlink()
                write_stubs(SOURCES, work, ROOT)
        except CheckFailed as error:
            sys.exit(f"proto: {error}")


if __name__ == "__main__":
    main()
