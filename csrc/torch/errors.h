// Errors of torch, in its own words: "can't allocate memory: you tried to allocate ...", which batch-size finders read.
#pragma once

#include <torch/headeronly/util/shim_utils.h>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include <stdexcept>
#include <string>

namespace dvae {

// torch 2.13 and newer keep the text of a failed call. The binary runs beside older ones, so it looks the function up.
[[noreturn]] inline void throw_torch_error(const char* call) {
#if !defined(_WIN32)
  using What = const char* (*)();
  static const auto what = reinterpret_cast<What>(dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace"));
  if (what != nullptr) throw std::runtime_error(what());
#endif
  throw std::runtime_error(std::string("torch failed in ") + call);
}

}  // namespace dvae

// The stable ABI's own macro names the call and its line alone.
#undef TORCH_ERROR_CODE_CHECK
#define TORCH_ERROR_CODE_CHECK(call) \
  if ((call) != TORCH_SUCCESS) {     \
    dvae::throw_torch_error(#call);  \
  }
