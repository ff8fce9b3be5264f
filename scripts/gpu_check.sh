#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds the CUDA backend for it, runs its tests there, also under compute-sanitizer
# where that is installed, times kernels and networks, and writes everything into one report.
#
#   scripts/gpu_check.sh [--out FILE.md] [--quick]
#     --out FILE.md   the report (default gpu-report.md)
#     --quick         without compute-sanitizer, and with shorter timings
source "$(dirname "$0")/common.sh"

out=gpu-report.md
quick=false
while (($# > 0)); do
  case $1 in
    --out)
      out=${2:?a file is missing behind --out}
      shift
      ;;
    --quick) quick=true ;;
    -h | --help) usage; exit ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done

if ! gpu=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader 2>&1 | head -n 1); then
  echo "$(basename "$0"): expected a GPU that nvidia-smi shows, got none; the emulated GPU needs no such machine (docs/cuda.md)" >&2
  exit 1
fi
arch=$(cut -d, -f2 <<<"$gpu" | tr -d ' .')

failed=0
# section TITLE COMMAND...: runs a command, and keeps its output and whether it succeeded.
section() {
  local title=$1 status=0
  shift
  echo "=== $title"
  {
    echo
    echo "## $title"
    echo
    echo "    \$ $*"
  } >>"$out"
  "$@" </dev/null 2>&1 | tee "$log" || status=${PIPESTATUS[0]}
  sed 's/^/    /' "$log" >>"$out"
  ((status == 0)) || {
    failed=$((failed + 1))
    echo >>"$out"
    echo "**Failed with exit status $status.**" >>"$out"
  }
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
  echo "# halfstep on a GPU"
  echo
  echo "$gpu; $(git describe --always --dirty 2>/dev/null || echo "no version"), $(date -u +%Y-%m-%d)."
} >"$out"

scripts/install_dependencies.sh
toolkit=$(scripts/setup.sh --cuda | tail -n 1)
export PATH=$toolkit/bin:$PATH
configure build-gpu -Dcuda=enabled "-Dgpu_arch=$arch"
section "Build for compute capability $arch" ninja -C build-gpu
section "Tests" scripts/run_tests.sh build-gpu --suite cuda
if ! $quick && command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    # Sizes that the sanitizer gets through in minutes.
    section "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      build-gpu/tests/cuda_kernels_tests '-tce=*every formula*,*over many images*'
  done
fi
seconds=1
$quick && seconds=0.1
section "Kernels" build-gpu/apps/halfstep bench --device cuda --what kernels --seconds "$seconds"
for precision in f32 bf16; do
  section "Networks in $precision" build-gpu/apps/halfstep bench --device cuda --what model --precision "$precision" \
    --seconds "$seconds" --profile
done

echo "The report: $out ($failed of its parts failed)"
((failed == 0))
