#!/usr/bin/env bash
# Tune two small models at once on a private mesh, then check the results. Needs `make setup`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly OUT=build/demo
rm -rf "$OUT"
.venv/bin/python examples/make_models.py "$OUT/models" tiny_cnn tiny_mlp_mixer
.venv/bin/tunemesh tune "$OUT/models/tiny_cnn.onnx" "$OUT/models/tiny_mlp_mixer.onnx" \
    --target native --trials 64 --out "$OUT/tuned"
.venv/bin/python examples/check_demo.py "$OUT/models" "$OUT/tuned"
