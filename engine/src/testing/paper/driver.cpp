// A driver on paper: what the engine calls of NVIDIA's, over the host's memory. Kernels run when they are launched, as
// `emulator.hpp` runs them. What this cannot show is whether a real driver does the same.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>

typedef unsigned long long Pointer;
typedef int (*Kernel)(const char* letters, unsigned blocks, unsigned threads, int backwards, void** arguments);

enum {
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
};

struct Device {
    std::atomic<long> used_bytes{0};
    // Launches until it is lost, if it is to be; 0 once it is.
    std::atomic<long> launches_left{-1};
};

static Device devices[GPUS];
static std::atomic<long> handles, allocations, launches;
static thread_local Device* current;

// What every call says once the device is lost.
static int state() {
    return !current ? INVALID_CONTEXT : current->launches_left == 0 ? ILLEGAL_ADDRESS : 0;
}

extern "C" {

int cuInit(unsigned) {
    const char* left = getenv("PAPER_GPU_LAUNCHES");
    for (Device& device : devices) {
        if (left && device.launches_left < 0) {
            device.launches_left = atol(left);
        }
    }
    return 0;
}
int cuDeviceGetCount(int* count) { return *count = GPUS, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char* name, int, int) { return strcpy(name, "Paper GPU"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = MEMORY_BYTES, 0; }
// Version 9.0, with pools of memory.
int cuDeviceGetAttribute(int* value, int attribute, int) {
    return *value = attribute == 75 ? 9 : attribute == 115, 0;
}

int cuDevicePrimaryCtxRetain(Device** context, int device) { return handles++, *context = &devices[device], 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return handles--, 0; }
int cuCtxGetCurrent(Device** context) { return *context = current, 0; }
int cuCtxSetCurrent(Device* context) { return current = context, 0; }
int cuCtxSynchronize() { return state(); }
int cuStreamCreate(Device** stream, unsigned) { return handles++, *stream = current, 0; }
int cuStreamDestroy_v2(void*) { return handles--, 0; }
int cuStreamSynchronize(void*) { return state(); }

int cuMemGetInfo_v2(size_t* free_bytes, size_t* bytes) {
    return *free_bytes = MEMORY_BYTES - current->used_bytes, *bytes = MEMORY_BYTES, 0;
}

int cuMemAllocAsync(Pointer* pointer, size_t bytes, void*) {
    if (bytes == 0 || state()) {
        return bytes == 0 ? INVALID_VALUE : state();
    }
    if ((current->used_bytes += bytes) > MEMORY_BYTES) {
        current->used_bytes -= bytes;
        return OUT_OF_MEMORY;
    }
    // In front of it its length, and nothing that anybody could count on in it.
    size_t* memory = static_cast<size_t*>(malloc(2 * sizeof(size_t) + bytes));
    *memory = bytes;
    memset(memory + 2, 0xff, bytes);
    allocations++;
    *pointer = reinterpret_cast<Pointer>(memory + 2);
    return 0;
}

int cuMemFreeAsync(Pointer pointer, void*) {
    if (!current) {
        return INVALID_CONTEXT;
    }
    size_t* memory = reinterpret_cast<size_t*>(pointer) - 2;
    current->used_bytes -= *memory;
    free(memory);
    return 0;
}

int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void*) {
    return state() ? state() : (memcpy(reinterpret_cast<void*>(to), from, bytes), 0);
}

int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void*) {
    return state() ? state() : (memcpy(to, reinterpret_cast<void*>(from), bytes), 0);
}

int cuMemHostAlloc(void** place, size_t bytes, unsigned) {
    return state() ? state() : (handles++, allocations++, *place = malloc(bytes), 0);
}

int cuMemFreeHost(void* place) { return handles--, free(place), 0; }

int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void*) {
    return state() ? state() : (memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), 0);
}

// A program is a library, whose length its header tells.
int cuModuleLoadData(void** module, const void* image) {
    const Elf64_Ehdr* header = static_cast<const Elf64_Ehdr*>(image);
    if (memcmp(image, ELFMAG, SELFMAG) != 0) {
        return INVALID_IMAGE;
    }
    size_t bytes = header->e_shoff + header->e_shnum * header->e_shentsize;
    // Under a name of its own: the system takes a library of the same name for the same.
    char path[] = FOLDER "/loaded-XXXXXX";
    int file = mkstemp(path);
    bool is_written = file >= 0 && write(file, image, bytes) == static_cast<ssize_t>(bytes);
    *module = is_written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    close(file);
    unlink(path);
    return *module ? (handles++, 0) : INVALID_IMAGE;
}

int cuModuleUnload(void* module) { return handles--, dlclose(module); }

int cuModuleGetFunction(void** function, void* module, const char* name) {
    char symbol[256];
    snprintf(symbol, sizeof symbol, "run_%s", name);
    *function = dlsym(module, symbol);
    return *function ? 0 : NOT_FOUND;
}

int cuLaunchKernel(void* function, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned v, unsigned w,
                   unsigned, void*, void** arguments, void**) {
    if (y * z * v * w != 1 || blocks == 0 || threads == 0) {
        return INVALID_VALUE;
    }
    if (current) {
        long left = current->launches_left;
        while (left > 0 && !current->launches_left.compare_exchange_weak(left, left - 1)) {
        }
    }
    launches++;
    return state() ? state() : reinterpret_cast<Kernel>(function)(nullptr, blocks, threads, 0, arguments);
}

// Contexts, streams and programs that nobody has given back, bytes likewise, and what was asked for since the beginning.
long paper_handles() { return handles; }
long paper_bytes() {
    long bytes = 0;
    for (Device& device : devices) {
        bytes += device.used_bytes;
    }
    return bytes;
}
long paper_allocations() { return allocations; }
long paper_launches() { return launches; }
// Loses a device at one of its next launches, counted from 1, or at once; never, for a negative number.
void paper_lose_after(int device, long count) { devices[device].launches_left = count; }

}
