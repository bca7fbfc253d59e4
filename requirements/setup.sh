#!/bin/sh
# Finds a Python that the pinned requirements support and hands over to setup.py.
# Shell, because the first thing that may be missing is a Python new enough for setup.py.
set -eu
here=$(dirname "$0")
case ${1:-} in
    "" | 0.32.0 | --lock) venv=.venv ;;
    *) venv=.venv-${1#--} ;;
esac
if [ -n "${PYTHON:-}" ]; then
    candidates=$PYTHON
else
    # The Python of an environment that exists, or it would be built again with another;
    # then the version that the pins were resolved for.
    kept=$("$here/../$venv/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null) || kept=
    candidates="$kept python3.11 python3 python3.12 python3.13"
fi
for python in $candidates; do
    if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        exec "$python" "$here/setup.py" "$@"
    fi
done
echo "setup: no Python 3.11, 3.12 or 3.13 among: $candidates; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
exit 1
