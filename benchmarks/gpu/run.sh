#!/usr/bin/env bash
# All GPU measurements on one machine, one JSON: benchmarks/gpu/run.sh --json results.json [options]
#
#   --weights FILE         KappaMask's DeepLabv3+ L2A (Keras HDF5); default: seeded weights, whose agreement says little
#   --tiles FOLDER         native_*.npz to compute on; default: made tiles
#   --codestreams FILE     from codestreams.py (client's environment); without it JPEG 2000 is skipped
#   --server-python FILE   Python of an environment with nvidia-pytriton and numpy < 2; default: python3
#   --tritonserver FILE    a tritonserver with the onnxruntime backend (NVIDIA's container); without it the flavours
#                          onnxruntime and tensorrt are skipped. Further arguments for it: TRITON_ARGS="--allow-client-shm=true"
#   --parts "A B ..."      of roofline bare steps frameworks through_triton jpeg2000 sweep_torch sweep_onnxruntime
#                          sweep_tensorrt; default: all. Parts measured before stay
#   --work FOLDER          where the parts' figures are kept; default: gpu-bench
#
# Needs python3 with torch (CUDA), onnx, onnxruntime, h5py, tritonclient. What a part lacks stands in the JSON, as
# "skipped" with the reason; so does the end of what a part said that failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
json=gpu-bench/results.json work=gpu-bench server_python=python3 codestreams= weights= tritonserver= tiles=
parts="roofline bare steps frameworks through_triton jpeg2000 sweep_torch sweep_onnxruntime sweep_tensorrt"
common=() extra=()
while [ $# -gt 0 ]; do
  case $1 in
    --json) json=$2 ;;
    --weights) weights=$2; common+=("$1" "$2") ;;
    --tiles) tiles=$2; common+=("$1" "$2") ;;
    --codestreams) codestreams=$2 ;;
    --server-python) server_python=$2 ;;
    --tritonserver) tritonserver=$2 ;;
    --parts) parts=$2 ;;
    --work) work=$2 ;;
    --) shift; extra=("$@"); break ;;  # for the parts themselves
    *) echo "run.sh: no option $1; see the head of $0" >&2; exit 2 ;;
  esac
  shift 2
done
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
mkdir -p "$work"

skip() {  # PART REASON
  echo "$1 skipped: $2" >&2
  printf '%s\n' "$2" > "$work/$1.skipped"
}

run() {  # PART COMMAND ...
  local part=$1
  shift
  echo "== $part"
  rm -f "$work/$part.skipped"
  if ! "$@" --json "$work/$part.json" ${extra[@]+"${extra[@]}"} 2> >(tee "$work/$part.log" >&2); then
    sleep 0.2  # for tee
    skip "$part" "it failed: $(tail -n 5 "$work/$part.log")"
  fi
}

sweep() {  # FLAVOUR
  local flavour=$1 part=sweep_$1 model=kappamask_l2a_deeplabv3plus_fp16 server=()
  if [ -z "$weights" ]; then skip "$part" "no --weights FILE to build $model from"; return; fi
  if [ "$flavour" != torch ]; then
    if [ -z "$tritonserver" ]; then
      skip "$part" "no --tritonserver FILE: the onnxruntime backend is in NVIDIA's container"
      return
    fi
    # shellcheck disable=SC2206 # words are meant
    server=(--tritonserver "$tritonserver" --server-args ${TRITON_ARGS:-})
  fi
  if ! python3 -m server_models build "$model" --flavour "$flavour" --repository "$work/models-$flavour" \
    --weights "$weights" > "$work/$part.log" 2>&1; then
    skip "$part" "the model was not built: $(tail -n 3 "$work/$part.log")"
    return
  fi
  run "$part" python3 "$here/config_sweep.py" "$work/models-$flavour/$model" --check --server-python "$server_python" \
    ${tiles:+--tiles "$tiles"} ${server[@]+"${server[@]}"}
}

lacking=
if ! python3 -c 'import torch' 2> "$work/torch.log"; then
  lacking="python3 has no PyTorch: $(tail -n 1 "$work/torch.log")"
elif ! python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
  lacking="PyTorch finds no NVIDIA GPU here"
fi
for part in $parts; do
  if [ -n "$lacking" ]; then skip "$part" "$lacking"; continue; fi
  case $part in
    roofline) run "$part" python3 "$here/$part.py" ;;
    through_triton)
      run "$part" python3 "$here/$part.py" ${common[@]+"${common[@]}"} --server-python "$server_python" --perf-analyzer
      ;;
    jpeg2000)
      if [ -z "$codestreams" ]; then skip "$part" "no --codestreams FILE"; continue; fi
      run "$part" python3 "$here/$part.py" ${common[@]+"${common[@]}"} --codestreams "$codestreams"
      ;;
    sweep_torch | sweep_onnxruntime | sweep_tensorrt) sweep "${part#sweep_}" ;;
    bare | steps | frameworks) run "$part" python3 "$here/$part.py" ${common[@]+"${common[@]}"} ;;
    *) skip "$part" "there is no such part; see the head of run.sh" ;;
  esac
done
python3 "$here/merge.py" "$work" "$json"
[ -z "$lacking" ] || { echo "run.sh: $lacking: nothing was measured" >&2; exit 3; }
