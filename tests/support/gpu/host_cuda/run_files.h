// A program of its own around a kernel's text: runs a launch that was recorded into files, in each schedule.
//
//   program KERNEL GRID_X GRID_Y GRID_Z THREADS SHARED SEED ARGUMENTS RESULTS
//
// ARGUMENTS holds for each parameter two 64-bit words, its kind (0 scalar, 1 array, 2 null pointer) and its bytes, and
// then the bytes. Behind them, as kind 3, arrays whose addresses belong into such an array: their bytes, the number of
// places, and of each the argument and the word in it. Every array gets a heap block of exactly its size. RESULTS
// receives all arrays but those that hold addresses, once a schedule.
#pragma once
#include <vector>

namespace sim {

struct Argument {
  u64 kind, bytes;
  void* block;  // of an array or a scalar
};

inline std::vector<Argument> read_arguments(const char* path) {
  FILE* file = fopen(path, "rb");
  std::vector<Argument> found;
  u64 head[2];
  while (fread(head, sizeof head, 1, file) == 1) {
    Argument a{head[0], head[1], malloc(head[1])};
    if (fread(a.block, 1, a.bytes, file) != a.bytes) abort();
    u64 places = 0, place[2];
    if (a.kind == 3 && fread(&places, sizeof places, 1, file) != 1) abort();
    for (u64 i = 0; i < places; i++) {
      if (fread(place, sizeof place, 1, file) != 1) abort();
      found[place[0]].kind = 4;  // an array of addresses
      ((u64*)found[place[0]].block)[place[1]] = (u64)a.block;
    }
    found.push_back(a);
  }
  fclose(file);
  return found;
}

inline void append_arrays(const char* path, const std::vector<Argument>& arguments) {
  FILE* file = fopen(path, "ab");
  for (const Argument& a : arguments)
    if ((a.kind == 1 || a.kind == 3) && fwrite(a.block, 1, a.bytes, file) != a.bytes) abort();
  fclose(file);
}

}  // namespace sim

int main(int count, char** words) {
  if (count != 10) return 2;
  auto number = [&](int i) { return strtoull(words[i], nullptr, 10); };
  const unsigned grid[3] = {(unsigned)number(2), (unsigned)number(3), (unsigned)number(4)};
  for (int schedule = sim::FORWARD; schedule <= sim::GREEDY; schedule++) {
    std::vector<sim::Argument> arguments = sim::read_arguments(words[8]);
    std::vector<void*> cells;  // as swinpy_launch wants them: where the pointer or the scalar is
    for (auto& a : arguments) {
      if (a.kind == 2) free(a.block), a.block = nullptr;
      cells.push_back(a.kind ? (void*)&a.block : a.block);
    }
    if (swinpy_launch(words[1], grid, number(5), number(6), schedule, number(7), cells.data())) {
      fprintf(stderr, "%s\n", swinpy_error());
      return 3;
    }
    sim::append_arrays(words[9], arguments);
    for (auto& a : arguments) free(a.block);
  }
  return 0;
}
