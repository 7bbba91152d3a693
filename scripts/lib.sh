# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# What scripts/quickstart and scripts/test share. Sourced.

set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
: "${CMAKE_BUILD_PARALLEL_LEVEL:=$(nproc)}"
export CMAKE_BUILD_PARALLEL_LEVEL
# Threads that wait for others must not take the cores from them.
export OMP_WAIT_POLICY=passive

packages="g++ cmake ninja-build ccache python3 python3-pip python3-venv ca-certificates
  libcli11-dev nlohmann-json3-dev libpng-dev libjpeg62-turbo-dev libarchive-dev
  libmatio-dev zlib1g-dev libtomlplusplus-dev libcairo2-dev libgtest-dev libgmock-dev libssl-dev
  libprotozero-dev libgloo-dev"

# Installs the Debian packages that are missing, or says how to.
install_packages() {
  missing=""
  for package in $packages "$@"; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
      "install ok installed") ;;
      *) missing="$missing $package" ;;
    esac
  done
  # Another Python than Debian's needs no Debian pip.
  if python3 -m pip --version >/dev/null 2>&1; then
    missing=$(printf '%s' "$missing" | sed 's/ python3-pip//; s/ python3-venv//')
  fi
  [ -n "$missing" ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "Please install what these Debian packages hold:$missing" >&2
    exit 1
  fi
  if [ "$(id -u)" != 0 ]; then
    echo "Please type first: sudo apt-get install$missing" >&2
    exit 1
  fi
  echo "Installing$missing"
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086
  apt-get install -y -qq --no-install-recommends $missing >/dev/null 2>&1 || {
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends $missing >/dev/null
  }
}

# configure PRESET [ARGUMENT…]
configure() {
  preset=$1
  shift
  cmake --preset "$preset" "$@" >"/tmp/bsconv-configure.$$" 2>&1 || {
    cat "/tmp/bsconv-configure.$$" >&2
    exit 1
  }
  grep -E '^-- (LibTorch|Installing|Example|The program|bsconv)' "/tmp/bsconv-configure.$$" || true
  rm -f "/tmp/bsconv-configure.$$"
}
