// The tuned model as a custom operator of ONNX Runtime: "Model" of the domain "tuned", with the inputs and
// outputs of signature.h. It finds model.so in its own folder.
#include <dlfcn.h>

#include <map>
#include <memory>

#include "ort_abi.h"
#include "signature.h"
#include "tuned_model.h"

namespace {

// Numbers of ONNX's element types.
int ElementType(const std::string& dtype) {
  static const std::map<std::string, int> kTypes = {
      {"float32", 1}, {"uint8", 2},    {"int8", 3},     {"uint16", 4}, {"int16", 5},  {"int32", 6},
      {"int64", 7},   {"bool", 9},     {"float16", 10}, {"float64", 11}, {"uint32", 12}, {"uint64", 13},
      {"bfloat16", 16}};
  return kTypes.at(dtype);
}

// All variants have the same ones, but for their shapes.
const std::vector<tuned::Described>& Inputs() { return kVariants[0].inputs; }
const std::vector<tuned::Described>& Outputs() { return kVariants[0].outputs; }

// A failed call of ONNX Runtime; its status is passed on.
struct Failed {
  OrtStatus* status;
};

void Check(OrtStatus* status) {
  if (status != nullptr) throw Failed{status};
}

// What `body` does, with whatever it throws as a status: nothing may be thrown into ONNX Runtime.
template <typename Body>
OrtStatus* Guarded(OrtApi api, Body body) {
  try {
    body();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const std::exception& error) {
    return ort::CreateStatus(api, error.what());
  }
}

struct Kernel {
  OrtApi api;
  tuned::Model model;

  void Compute(OrtKernelContext* context) {
    std::vector<tuned::Input> inputs;
    for (size_t i = 0; i < Inputs().size(); ++i) {
      const OrtValue* value = nullptr;
      Check(ort::GetInput(api, context, i, &value));
      void* data = nullptr;
      Check(ort::GetTensorData(api, const_cast<OrtValue*>(value), &data));
      inputs.push_back({data, Shape(value)});
    }
    std::vector<tvm::ffi::Tensor> outputs = model.Run(inputs);
    for (size_t i = 0; i < outputs.size(); ++i) {
      auto shape = outputs[i].shape();
      OrtValue* value = nullptr;
      Check(ort::GetOutput(api, context, i, shape.data(), shape.size(), &value));
      void* data = nullptr;
      Check(ort::GetTensorData(api, value, &data));
      size_t size = tvm::ffi::GetDataSize(static_cast<size_t>(outputs[i].numel()), outputs[i].dtype());
      if (size > 0) memcpy(data, outputs[i].data_ptr(), size);
    }
  }

  std::vector<int64_t> Shape(const OrtValue* value) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    Check(ort::GetTypeAndShape(api, value, &info));
    auto release = [this](OrtTensorTypeAndShapeInfo* held) { ort::ReleaseTypeAndShape(api, held); };
    std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> holder(info, release);
    size_t rank = 0;
    Check(ort::GetDimensionsCount(api, info, &rank));
    std::vector<int64_t> shape(rank);
    Check(ort::GetDimensions(api, info, shape.data(), rank));
    return shape;
  }
};

OrtStatus* CreateKernel(const OrtCustomOp*, OrtApi api, const OrtKernelInfo*, void** kernel) {
  return Guarded(api, [&] {
    // model.so asks for symbols of this library without naming it, and ONNX Runtime keeps it to itself.
    dlopen("libtvm_ffi.so", RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    *kernel = new Kernel{api, {tuned::Folder(), kVariants}};
  });
}

OrtStatus* Compute(void* kernel, OrtKernelContext* context) {
  Kernel* self = static_cast<Kernel*>(kernel);
  return Guarded(self->api, [&] { self->Compute(context); });
}

const OrtCustomOp& Op() {
  static const OrtCustomOp op = [] {
    OrtCustomOp made{};
    made.version = ort::kVersion;
    made.GetName = [](const OrtCustomOp*) { return "Model"; };
    made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU's
    made.GetInputType = [](const OrtCustomOp*, size_t i) { return ElementType(Inputs()[i].dtype); };
    made.GetInputTypeCount = [](const OrtCustomOp*) { return Inputs().size(); };
    made.GetOutputType = [](const OrtCustomOp*, size_t i) { return ElementType(Outputs()[i].dtype); };
    made.GetOutputTypeCount = [](const OrtCustomOp*) { return Outputs().size(); };
    made.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    made.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return 0; };  // required
    made.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return 0; };
    made.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return 0; };
    made.CreateKernelV2 = CreateKernel;
    made.KernelComputeV2 = Compute;
    return made;
  }();
  return op;
}

}  // namespace

// ONNX Runtime calls this when the library is registered.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  OrtApi api = base->GetApi(ort::kVersion);
  if (api == nullptr) {
    api = base->GetApi(1);
    return ort::CreateStatus(api, "the tuned model needs ONNX Runtime 1.16 or newer");
  }
  return Guarded(api, [&] {
    OrtCustomOpDomain* domain = nullptr;  // for as long as the process: sessions refer to it
    Check(ort::CreateCustomOpDomain(api, "tuned", &domain));
    Check(ort::AddToDomain(api, domain, &Op()));
    Check(ort::AddDomain(api, options, domain));
  });
}
