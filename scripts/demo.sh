#!/usr/bin/env bash
# Trains a diffusion model from nothing on Fashion-MNIST, distils it to one step and puts the pictures side by side;
# installs what is missing on Debian 12 and builds first.
#
#   scripts/demo.sh [--minutes M] [--out DIR]
#     --minutes M    how long training and distillation may take, on two CPU cores (default 12)
#     --out DIR      a new folder for the pictures and checkpoints (default out/demo)
source "$(dirname "$0")/common.sh"

minutes=12
out=out/demo
while (($# > 0)); do
  case $1 in
    --minutes)
      minutes=${2:?--minutes needs a number}
      shift 2
      ;;
    --out)
      out=${2:?--out needs a folder}
      shift 2
      ;;
    -h | --help) usage; exit ;;
    *) usage_error "unknown argument $1" ;;
  esac
done

scripts/install_dependencies.sh
configure build
ninja -C build apps/halfstep
build/apps/halfstep demo --minutes "$minutes" --out "$out"
