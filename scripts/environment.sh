# Sourced by the scripts beside it: makes the virtual environment .venv and installs into it.
#
# PYTHON   interpreter to make it with; otherwise the first of python3.11, 3.12, 3.13, python3 that fits

readonly VENV=".venv"
# Git Bash on Windows runs these scripts too; there Python puts programs into another folder.
case "$(uname -s)" in
  MINGW* | MSYS* | CYGWIN*) readonly VENV_BIN="$VENV/Scripts" ;;
  *) readonly VENV_BIN="$VENV/bin" ;;
esac

is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    is_supported "$PYTHON" && { echo "$PYTHON"; return; }
    echo "error: PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13 ($("$PYTHON" --version 2>&1 | tail -1))." \
      "Set PYTHON to one that is." >&2
    return 1
  fi
  for candidate in python3 python3.11 python3.12 python3.13 python; do
    is_supported "$candidate" && { echo "$candidate"; return; }
  done
  echo "error: MMSA_ext needs Python 3.11, 3.12 or 3.13, and none is on the PATH." \
    "Install one, or set PYTHON=/path/to/python." >&2
  return 1
}

# install EXTRAS: this repository, editable, with the versions of constraints.txt.
install() {
  if ! is_supported "$VENV_BIN/python"; then
    local python
    python="$(find_python)"
    echo "Making the virtual environment $VENV with $("$python" --version)."
    "$python" -m venv --clear "$VENV"
  fi
  echo "Installing MMSA_ext[$1] into $VENV; the first time this takes minutes."
  "$VENV_BIN/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    --constraint constraints.txt --editable ".[$1]"
}
