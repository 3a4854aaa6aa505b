#!/usr/bin/env bash
# All GPU measurements on one machine, one JSON: benchmarks/gpu/run.sh --json results.json [options]
#
#   --weights FILE         KappaMask's DeepLabv3+ L2A (Keras HDF5); default: seeded weights, whose agreement says little
#   --tiles FOLDER         native_*.npz to compute on; default: made tiles
#   --codestreams FILE     from codestreams.py (client's environment); without it JPEG 2000 is skipped
#   --server-python FILE   Python of an environment with nvidia-pytriton and numpy < 2; default: python3
#   --parts "A B ..."      of roofline bare steps frameworks through_triton jpeg2000; default: all. Parts measured before stay
#   --work FOLDER          where the parts' figures are kept; default: gpu-bench
#
# Needs python3 with torch (CUDA), onnx, onnxruntime, h5py; each part says what it lacks and is then skipped.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
json=gpu-bench/results.json work=gpu-bench server_python=python3 codestreams=
parts="roofline bare steps frameworks through_triton jpeg2000"
common=() extra=()
while [ $# -gt 0 ]; do
  case $1 in
    --json) json=$2 ;;
    --weights | --tiles) common+=("$1" "$2") ;;
    --codestreams) codestreams=$2 ;;
    --server-python) server_python=$2 ;;
    --parts) parts=$2 ;;
    --work) work=$2 ;;
    --) shift; extra=("$@"); break ;;  # for the parts themselves
    *) echo "run.sh: no option $1; see the head of $0" >&2; exit 2 ;;
  esac
  shift 2
done
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
mkdir -p "$work"
if ! python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
  echo "run.sh: PyTorch finds no NVIDIA GPU here: nothing to measure" >&2
  exit 3
fi
for part in $parts; do
  arguments=(--json "$work/$part.json")
  case $part in
    roofline) ;;
    through_triton) arguments+=("${common[@]}" --server-python "$server_python" --perf-analyzer) ;;
    jpeg2000)
      if [ -z "$codestreams" ]; then echo "jpeg2000 skipped: no --codestreams FILE"; continue; fi
      arguments+=("${common[@]}" --codestreams "$codestreams")
      ;;
    *) arguments+=("${common[@]}") ;;
  esac
  echo "== $part"
  if ! python3 "$here/$part.py" "${arguments[@]}" "${extra[@]}"; then
    echo "$part failed or lacks something (see above)" >&2
  fi
done
python3 "$here/merge.py" "$work" "$json"
