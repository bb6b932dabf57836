#!/bin/sh
# Take out of installed packages what nothing here asks for: slim.sh SITE-PACKAGES. Run while an image is built.
set -eu
cd "$1"

# The tables by which texts in some 500 languages are coloured, but that of a traceback.
find pygments/lexers -type f ! -name '__init__*' ! -name '_mapping*' ! -name 'python.*' ! -name 'special.*' -delete

# Stubs for type checkers.
find . -name '*.pyi' -delete

if [ -d tvm ]; then
    # Headers for a way of TVM that nothing here goes; tests; data, tools and headers for other ends.
    rm -r tvm/3rdparty/cutlass tvm/src tvm/web onnx/backend/test onnxruntime/quantization onnxruntime/tools \
        onnxruntime/transformers sqlalchemy/testing tornado/test numpy/distutils numpy/_core/include \
        numpy/random/lib
    # For programs in C; the module for Python has all of it in itself.
    rm onnxruntime/capi/libonnxruntime.so.*
    find numpy scipy -type d -name tests -prune -exec rm -r {} +
    find numpy scipy \( -name '*.pxd' -o -name '*.pyx' \) -delete
    # XGBoost takes SciPy's sparse matrices, and no more of it.
    (cd scipy && rm -r cluster datasets differentiate fft fftpack integrate interpolate io misc ndimage odr optimize \
        signal spatial stats)
    # Of these large packages only what is used stays compiled: what the import of these takes.
    large='google numpy onnx onnxruntime psycopg scipy sqlalchemy tornado tvm xgboost'
    # shellcheck disable=SC2086 # names without spaces
    find $large -name __pycache__ -prune -exec rm -r {} +
    env --unset=PYTHONDONTWRITEBYTECODE /opt/venv/bin/python -c '
import onnx.reference, onnxruntime, psycopg, sqlalchemy.dialects.postgresql, sqlalchemy.dialects.sqlite, xgboost
import tvm.relax.frontend.onnx, tvm.relax.frontend.tflite, tvm.s_tir.meta_schedule'
fi

# Symbols for debuggers, in what was not relocated by the tool that makes wheels: there `strip` does harm.
find msgspec pydantic_core yaml sqlalchemy -name '*.so' -exec strip --strip-debug {} + 2>/dev/null || true
