#include <tvm/ffi/c_api.h>

#define NAME_(symbol) __tvm_ffi_##symbol
#define NAME(symbol) NAME_(symbol)

static float* values(const TVMFFIAny* argument) {
  const DLTensor* tensor = argument->type_index == kTVMFFITensor
      ? (const DLTensor*)((const char*)argument->v_obj + sizeof(TVMFFIObject))
      : (const DLTensor*)argument->v_ptr;
  return (float*)((char*)tensor->data + tensor->byte_offset);
}

int NAME(SYMBOL)(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  const float *restrict a = values(&arguments[0]), *restrict b = values(&arguments[1]);
  float* restrict c = values(&arguments[2]);
  for (int i = 0; i < ROWS * COLUMNS; ++i) c[i] = 0;
  for (int first = 0; first < DEPTH; first += TILE)
    for (int i = 0; i < ROWS; ++i)
      for (int k = first; k < first + TILE && k < DEPTH; ++k)
        for (int j = 0; j < COLUMNS; ++j) c[i * COLUMNS + j] += a[i * DEPTH + k] * b[k * COLUMNS + j];
  return 0;
}
