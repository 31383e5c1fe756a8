// Runs the CUDA kernel templates on a CPU, for tests without a GPU: every thread of a block is a fiber, blocks run one
// after another. Barriers and shuffles really wait, shared memory starts as NaN and is fenced, and 16-byte accesses
// must be aligned, so what a GPU would only corrupt stops here with a message. Slow, not reentrant.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace dvae::shim {

struct Dim3 {
  unsigned x = 1, y = 1;
};

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "CUDA host shim: %s\n", what);
  std::abort();
}

// Shared memory that a block may use; tests lower it to make rows that do not fit.
inline size_t shared_limit = 227 << 10;

struct Barrier {
  unsigned arrived = 0, generation = 0;
};

class Block {
 public:
  static Block& current() {
    static Block block;
    return block;
  }

  Dim3 thread_index, block_index, block_dim, grid_dim;

  void launch(Dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& kernel) {
    if (threads == 0 || threads % 32) fail("blocks must be whole warps");
    grid_dim = grid;
    block_dim = {threads, 1};
    kernel_ = &kernel;
    shared_.resize(shared_bytes + kFence + 16);
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(shared_.data()) + 15) & ~uintptr_t{15};
    shared_begin_ = reinterpret_cast<unsigned char*>(begin);
    while (stacks_.size() < threads) stacks_.emplace_back(new unsigned char[kStack]);
    for (block_index.y = 0; block_index.y < grid.y; ++block_index.y) {
      for (block_index.x = 0; block_index.x < grid.x; ++block_index.x) {
        std::memset(shared_begin_, 0xff, shared_bytes + kFence);
        run();
        for (size_t i = 0; i < kFence; ++i) {
          if (shared_begin_[shared_bytes + i] != 0xff) fail("a write beyond shared memory");
        }
      }
    }
  }

  void synchronize_block() { wait(block_barrier_, block_dim.x); }
  void synchronize_warp() { wait(warps_[thread_index.x / 32].barrier, 32); }

  uint32_t shuffle_xor(uint32_t value, unsigned mask) {
    Warp& warp = warps_[thread_index.x / 32];
    const unsigned lane = thread_index.x % 32;
    // two buffers: nobody can write the same one again before all have read it
    uint32_t* words = warp.words[warp.barrier.generation & 1];
    words[lane] = value;
    wait(warp.barrier, 32);
    return words[lane ^ mask];
  }

  unsigned char* shared() { return shared_begin_; }

 private:
  static constexpr size_t kStack = 64 << 10, kFence = 256;

  struct Warp {
    Barrier barrier;
    uint32_t words[2][32];
  };

  void run() {
    const unsigned threads = block_dim.x;
    contexts_.resize(threads);
    done_.assign(threads, false);
    warps_.assign(threads / 32, Warp{});
    block_barrier_ = {};
    for (unsigned t = 0; t < threads; ++t) {
      getcontext(&contexts_[t]);
      contexts_[t].uc_stack.ss_sp = stacks_[t].get();
      contexts_[t].uc_stack.ss_size = kStack;
      contexts_[t].uc_link = &scheduler_;
      makecontext(&contexts_[t], &Block::fiber, 0);
    }
    const bool backwards = (block_index.x + block_index.y) & 1;  // a missing barrier shows in one order or the other
    unsigned left = threads;
    while (left) {
      progressed_ = false;
      for (unsigned i = 0; i < threads; ++i) {
        const unsigned t = backwards ? threads - 1 - i : i;
        if (done_[t]) continue;
        thread_index.x = t;
        swapcontext(&scheduler_, &contexts_[t]);
        if (done_[t]) {
          --left;
          progressed_ = true;
        }
      }
      if (left && !progressed_) fail("a barrier or shuffle that not every thread reaches");
    }
  }

  static void fiber() {
    Block& block = current();
    const unsigned t = block.thread_index.x;
    (*block.kernel_)();
    block.done_[t] = true;
  }

  void wait(Barrier& barrier, unsigned expected) {
    const unsigned t = thread_index.x, generation = barrier.generation;
    progressed_ = true;
    if (++barrier.arrived == expected) {
      barrier.arrived = 0;
      ++barrier.generation;
      return;
    }
    while (barrier.generation == generation) swapcontext(&contexts_[t], &scheduler_);
  }

  const std::function<void()>* kernel_ = nullptr;
  std::vector<unsigned char> shared_;
  unsigned char* shared_begin_ = nullptr;
  std::vector<std::unique_ptr<unsigned char[]>> stacks_;
  std::vector<ucontext_t> contexts_;
  std::vector<char> done_;
  std::vector<Warp> warps_;
  Barrier block_barrier_;
  ucontext_t scheduler_;
  bool progressed_ = false;
};

}  // namespace dvae::shim

#define threadIdx (dvae::shim::Block::current().thread_index)
#define blockIdx (dvae::shim::Block::current().block_index)
#define gridDim (dvae::shim::Block::current().grid_dim)

inline void __syncthreads() { dvae::shim::Block::current().synchronize_block(); }
inline void __syncwarp() { dvae::shim::Block::current().synchronize_warp(); }
inline uint32_t __shfl_xor_sync(uint32_t, uint32_t value, int mask) {
  return dvae::shim::Block::current().shuffle_xor(value, static_cast<unsigned>(mask));
}
// Blocks run one after another, and fibers wait nowhere else.
template <class T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target = before + value;
  return before;
}
