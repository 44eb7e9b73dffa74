# Makes or refreshes .venv; sourced by the scripts beside it. Usage: setup [EXTRA]
# Needs a Python >= 3.10 with venv and pip; PYTHON names another than the newest one found.

# a machine that forbids to keep byte code would have each of hundreds of processes compile thousands of modules
unset PYTHONDONTWRITEBYTECODE

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3.10 python3 python}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python 3.10 to 3.13 with venv and pip found${PYTHON:+ at PYTHON=$PYTHON}; install one (on Debian: apt install python3 python3-venv)." >&2
  exit 1
}

setup() {
  local extra=${1:-} python wanted stamp=.venv/.opnas-setup
  python=$(find_python) || exit 1
  wanted="$(cat pyproject.toml constraints.txt | cksum) $root"
  if [ -x .venv/bin/nas ] && grep -qxF "$wanted $extra" "$stamp" 2>/dev/null; then
    return
  fi
  if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "Making .venv with $("$python" --version)" >&2
    "$python" -m venv --clear .venv || exit 1
  fi
  echo "Installing opnas${extra:+ with $extra} into .venv; torch with its CUDA libraries takes some minutes the first time" >&2
  # without --no-compile a quarter of the time goes into byte code of 20,000 files, most of which nobody imports
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".${extra:+[$extra]}" >&2 || {
    echo "The installation failed; run it again when the cause above is gone." >&2
    exit 1
  }
  grep -sF "$wanted" "$stamp" > "$stamp.new" || true
  echo "$wanted $extra" >> "$stamp.new"
  mv "$stamp.new" "$stamp"
}
