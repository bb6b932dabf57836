// Run a tuned model from C++17. Needs the headers and libraries beside it: see Makefile and main.cc.
#pragma once

#include <dlfcn.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace tuned {

// One input or output, as signature.h lists them.
struct Described {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype;
};

// What the model takes and gives in one set of shapes. A length of -1 depends on what the inputs hold.
struct Variant {
  std::string function;
  std::vector<Described> inputs;
  std::vector<Described> outputs;
};

// The memory of one input: row after row, without gaps.
struct Input {
  const void* data;
  std::vector<int64_t> shape;
};

// Where the program or library lies that this is compiled into.
inline std::string Folder() {
  Dl_info found;
  std::string path = dladdr(reinterpret_cast<void*>(&Folder), &found) ? found.dli_fname : "";
  size_t end = path.rfind('/');
  return end == std::string::npos ? "." : path.substr(0, end);
}

// A model that is loaded, and runs as often as it is asked to. Calls from several threads take turns.
class Model {
 public:
  // folder holds model.so.
  Model(const std::string& folder, std::vector<Variant> variants)
      : variants_(std::move(variants)), copies_(variants_.size()) {
    using tvm::ffi::Module;
    // Where the model has threads, they run on the cores that the process was given, not on the first ones.
    setenv("TVM_BIND_THREADS", "0", 0);
    Module library = Module::LoadFromFile(folder + "/model.so");
    Module machine = library->GetFunction("vm_load_executable").value()().cast<Module>();
    constexpr int kPooledAllocator = 2;
    machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    for (size_t i = 0; i < variants_.size(); ++i) {
      functions_.push_back(machine->GetFunction(variants_[i].function).value());
      copies_[i].resize(variants_[i].inputs.size());
    }
  }

  // The outputs for these inputs, in the order of the signature. An input that begins at a multiple of 64
  // bytes is used in place, any other is copied. An output may share its memory with an input, where the model
  // only reshapes it. Throws std::invalid_argument when a shape does not fit, tvm::ffi::Error when it fails.
  std::vector<tvm::ffi::Tensor> Run(const std::vector<Input>& inputs) {
    std::lock_guard<std::mutex> turn(mutex_);
    size_t variant = Fitting(inputs);
    std::vector<tvm::ffi::Tensor> tensors;
    std::vector<tvm::ffi::AnyView> arguments;
    for (size_t i = 0; i < inputs.size(); ++i) tensors.push_back(Tensor(variant, i, inputs[i]));
    for (const tvm::ffi::Tensor& tensor : tensors) arguments.emplace_back(tensor);
    tvm::ffi::Any result;
    functions_[variant].CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &result);
    std::vector<tvm::ffi::Tensor> outputs;
    Flatten(result, &outputs);
    return outputs;
  }

 private:
  // Kernels load whole vectors: from memory that begins anywhere else they crash.
  static constexpr size_t kAlignment = 64;

  struct Freed {
    void operator()(void* memory) const { free(memory); }
  };
  using Memory = std::unique_ptr<void, Freed>;

  // Memory that belongs to somebody else.
  struct Borrowed {
    void* data;
    void AllocData(DLTensor* tensor) { tensor->data = data; }
    void FreeData(DLTensor*) {}
  };

  // The variant for inputs of these shapes.
  size_t Fitting(const std::vector<Input>& inputs) {
    for (size_t i = 0; i < variants_.size(); ++i) {
      const std::vector<Described>& wanted = variants_[i].inputs;
      bool fits = inputs.size() == wanted.size();
      for (size_t j = 0; fits && j < wanted.size(); ++j) fits = inputs[j].shape == wanted[j].shape;
      if (fits) return i;
    }
    std::string text = "the model does not take inputs of the shapes";
    for (const Input& input : inputs) text += " " + Show(input.shape);
    text += "; it takes";
    for (size_t i = 0; i < variants_.size(); ++i) {
      text += i > 0 ? " or" : "";
      for (const Described& input : variants_[i].inputs) text += " " + input.name + Show(input.shape);
    }
    throw std::invalid_argument(text);
  }

  tvm::ffi::Tensor Tensor(size_t variant, size_t index, const Input& input) {
    DLDataType dtype = tvm::ffi::StringToDLDataType(variants_[variant].inputs[index].dtype);
    void* data = const_cast<void*>(input.data);
    if (reinterpret_cast<uintptr_t>(data) % kAlignment != 0) {
      size_t size = (dtype.bits + 7) / 8;
      for (int64_t extent : input.shape) size *= static_cast<size_t>(extent);
      if (!copies_[variant][index]) {
        size_t rounded = (size + kAlignment) / kAlignment * kAlignment;
        copies_[variant][index].reset(aligned_alloc(kAlignment, rounded));
        if (!copies_[variant][index]) throw std::bad_alloc();
      }
      data = memcpy(copies_[variant][index].get(), data, size);
    }
    tvm::ffi::ShapeView shape(input.shape.data(), input.shape.size());
    return tvm::ffi::Tensor::FromNDAlloc(Borrowed{data}, shape, dtype, DLDevice{kDLCPU, 0});
  }

  static void Flatten(const tvm::ffi::Any& result, std::vector<tvm::ffi::Tensor>* outputs) {
    if (auto tensor = result.as<tvm::ffi::Tensor>()) {
      outputs->push_back(*tensor);
      return;
    }
    for (const tvm::ffi::Any& field : result.cast<tvm::ffi::Array<tvm::ffi::Any>>()) Flatten(field, outputs);
  }

  static std::string Show(const std::vector<int64_t>& shape) {
    std::ostringstream text;
    for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "[") << shape[i];
    return (shape.empty() ? "[" : "") + text.str() + "]";
  }

  std::vector<Variant> variants_;
  std::vector<tvm::ffi::Function> functions_;
  std::vector<std::vector<Memory>> copies_;
  std::mutex mutex_;
};

}  // namespace tuned
