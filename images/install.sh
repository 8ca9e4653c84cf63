#!/bin/sh
# The install steps of the Dockerfile, one of them a layer. images/check.py runs the same lines without a
# container engine, so nothing here may touch more than the folders it is given (but for `compiler`).
#
#   install.sh wheel FOLDER                     this project's wheel, from the sources in the current folder
#   install.sh dependencies VENV EXTRA ...      an environment with what these extras need, as constraints.txt
#                                               says; TORCH_INDEX: a package index that torch comes from
#   install.sh application VENV FOLDER          the wheel of the folder, into the environment
#   install.sh base PREFIX                      the Python of an image: with bytecode, without pip
#   install.sh compiler                         gcc, from Debian, into the system
set -eu

# Wheels with fixed times, and bytecode that holds by content: times of files change when layers are packed.
export SOURCE_DATE_EPOCH=315532800 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
umask 022

make_wheel() {
    python -m pip install --quiet --constraint constraints.txt setuptools
    python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$1" .
}

install_dependencies() {
    venv=$1
    shift
    python -m venv --without-pip "$venv"
    python images/requirements.py pyproject.toml "$@" >requirements.txt
    if [ -n "${TORCH_INDEX:-}" ]; then
        torch=$(grep '^torch==' constraints.txt)
        install_into "$venv" --no-deps --index-url "$TORCH_INDEX" "$torch"
    fi
    install_into "$venv" --constraint constraints.txt --requirement requirements.txt
}

install_application() {
    install_into "$1" --no-deps --no-index "$2"/*.whl
    python -m pip --python "$1/bin/python" check
}

install_into() { # VENV ARGUMENT ...
    venv=$1
    shift
    python -m pip --python "$venv/bin/python" install --quiet --only-binary :all: "$@"
}

finish_base() {
    for library in "$1"/lib/python3.*; do
        rm -rf "$library"/site-packages/* "$library"/ensurepip
        python -m compileall -q -j 0 -x '/tests?/' "$library"
    done
    rm -f "$1"/bin/pip* "$1"/bin/wheel
}

install_compiler() {
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends gcc libc6-dev
    rm -rf /var/lib/apt/lists/*
}

step=$1
shift
case $step in
wheel) make_wheel "$@" ;;
dependencies) install_dependencies "$@" ;;
application) install_application "$@" ;;
base) finish_base "$@" ;;
compiler) install_compiler ;;
*)
    echo "install.sh: no step $step" >&2
    exit 2
    ;;
esac
