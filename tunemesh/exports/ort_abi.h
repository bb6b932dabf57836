// The part of ONNX Runtime's C interface that a custom operator needs. ONNX Runtime promises that a function
// keeps its place in the table, and a field its place in the structure, in every later version: so these
// positions hold from 1.16 on, and its header of 300 KB is not needed.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtValue;
struct OrtTensorTypeAndShapeInfo;

typedef void (*OrtFunction)(void);
typedef const OrtFunction* OrtApi;

struct OrtApiBase {
  OrtApi (*GetApi)(uint32_t version);
  const char* (*GetVersionString)(void);
};

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, OrtApi, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, OrtApi, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
};

}  // extern "C"

namespace ort {

constexpr uint32_t kVersion = 16;
constexpr int kFail = 1;

template <typename Result, typename... Arguments>
Result Call(OrtApi api, size_t position, Arguments... arguments) {
  return reinterpret_cast<Result (*)(Arguments...)>(api[position])(arguments...);
}

inline OrtStatus* CreateStatus(OrtApi api, const char* text) {
  return Call<OrtStatus*>(api, 0, kFail, text);
}
inline OrtStatus* CreateCustomOpDomain(OrtApi api, const char* name, OrtCustomOpDomain** domain) {
  return Call<OrtStatus*>(api, 26, name, domain);
}
inline OrtStatus* AddToDomain(OrtApi api, OrtCustomOpDomain* domain, const OrtCustomOp* op) {
  return Call<OrtStatus*>(api, 27, domain, op);
}
inline OrtStatus* AddDomain(OrtApi api, OrtSessionOptions* options, OrtCustomOpDomain* domain) {
  return Call<OrtStatus*>(api, 28, options, domain);
}
inline OrtStatus* GetTensorData(OrtApi api, OrtValue* value, void** data) {
  return Call<OrtStatus*>(api, 51, value, data);
}
inline OrtStatus* GetDimensionsCount(OrtApi api, const OrtTensorTypeAndShapeInfo* info, size_t* count) {
  return Call<OrtStatus*>(api, 61, info, count);
}
inline OrtStatus* GetDimensions(OrtApi api, const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t n) {
  return Call<OrtStatus*>(api, 62, info, dims, n);
}
inline OrtStatus* GetTypeAndShape(OrtApi api, const OrtValue* value, OrtTensorTypeAndShapeInfo** info) {
  return Call<OrtStatus*>(api, 65, value, info);
}
inline OrtStatus* GetInput(OrtApi api, const OrtKernelContext* context, size_t i, const OrtValue** value) {
  return Call<OrtStatus*>(api, 90, context, i, value);
}
inline OrtStatus* GetOutput(OrtApi api, OrtKernelContext* context, size_t i, const int64_t* dims, size_t n,
                            OrtValue** value) {
  return Call<OrtStatus*>(api, 91, context, i, dims, n, value);
}
inline void ReleaseTypeAndShape(OrtApi api, OrtTensorTypeAndShapeInfo* info) {
  Call<void>(api, 99, info);
}

}  // namespace ort
