// CUDA's execution model on a CPU, for tests: the names of autograd/kernels/cuda/device.cuh, one fiber a CUDA thread.
//
// A block runs at a time. Its threads are switched only where they wait for each other (barriers and warp collectives),
// in an order that the schedule chooses. Found and reported: barriers that not all threads reach, collectives of part
// of a warp, threads that wait for ever, vectors that are not aligned, writes behind shared memory; under ThreadSanitizer
// every race, as only barriers (of the block, or of a warp for its lanes) order threads there; under AddressSanitizer
// every access outside an array. Shared memory starts as NaN. Not seen: bank conflicts, coalescing, weak memory, flushed denormals, the order of sums inside an mma.
//
// stacks.h switches stacks, block.h has a block, its threads and how they wait, scheduler.h runs them, and device_names.h gives
// what a kernel sees of it.
#pragma once
#include "stacks.h"
#include "block.h"
#include "scheduler.h"
#include "device_names.h"
