// A GPU on paper: the functions of the driver and of NVRTC that the engine calls, over the host's memory. What it cannot
// show is whether a real one does the same.

#include <stdlib.h>
#include <string.h>

#define MEMORY_BYTES (1 << 20)

enum { OUT_OF_MEMORY = 2, INVALID_VALUE = 1, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NOT_FOUND = 500 };

typedef unsigned long long Pointer;

static size_t used_bytes;
static int contexts, streams, modules;
static _Thread_local void* current;

int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char* name, int length, int device) { return strcpy(name, "Paper GPU"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { return *bytes = MEMORY_BYTES, 0; }
// Version 9.0, with pools of memory.
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    return *value = attribute == 75 ? 9 : attribute == 115, 0;
}

int cuDevicePrimaryCtxRetain(void** context, int device) { return contexts++, *context = &contexts, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return contexts--, 0; }
int cuCtxGetCurrent(void** context) { return *context = current, 0; }
int cuCtxSetCurrent(void* context) { return current = context, 0; }
int cuStreamCreate(void** stream, unsigned flags) { return streams++, *stream = &streams, 0; }
int cuStreamDestroy_v2(void* stream) { return streams--, 0; }
int cuStreamSynchronize(void* stream) { return 0; }

int cuMemGetInfo_v2(size_t* free_bytes, size_t* bytes) {
    return *free_bytes = MEMORY_BYTES - used_bytes, *bytes = MEMORY_BYTES, 0;
}

int cuMemAllocAsync(Pointer* pointer, size_t bytes, void* stream) {
    if (!current || bytes == 0) {
        return current ? INVALID_VALUE : INVALID_CONTEXT;
    }
    if (bytes > MEMORY_BYTES - used_bytes) {
        return OUT_OF_MEMORY;
    }
    size_t* memory = malloc(sizeof(size_t) + bytes);
    *memory = bytes;
    used_bytes += bytes;
    *pointer = (Pointer)(memory + 1);
    return 0;
}

int cuMemFreeAsync(Pointer pointer, void* stream) {
    if (!current) {
        return INVALID_CONTEXT;
    }
    size_t* memory = (size_t*)pointer - 1;
    used_bytes -= *memory;
    free(memory);
    return 0;
}

int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    return memcpy((void*)to, from, bytes), 0;
}

int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    return memcpy(to, (void*)from, bytes), 0;
}

int cuModuleLoadData(void** module, const void* image) {
    return modules++, *module = &modules, memcmp(image, "\x7f" "ELF", 4) ? INVALID_IMAGE : 0;
}
int cuModuleUnload(void* module) { return modules--, 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
    return *function = &modules, strcmp(name, "show") ? NOT_FOUND : 0;
}

// The one kernel, show(double* to, float* absent, unsigned, unsigned long long, float), writes down what it is given.
int cuLaunchKernel(void* function, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned v, unsigned w,
                   unsigned shared_bytes, void* stream, void** arguments, void** extra) {
    double* to = (double*)*(Pointer*)arguments[0];
    to[0] = blocks;
    to[1] = threads;
    to[2] = (double)*(Pointer*)arguments[1];
    to[3] = *(unsigned*)arguments[2];
    to[4] = (double)*(unsigned long long*)arguments[3];
    to[5] = *(float*)arguments[4];
    return y == 1 && z == 1 && v == 1 && w == 1 ? 0 : INVALID_VALUE;
}

// Handles that nobody has given back, and bytes.
int paper_left(void) { return contexts + streams + (int)used_bytes; }

// A program is its text. It compiles unless it says `wrong`.
int nvrtcVersion(int* major, int* minor) { return *major = 13, *minor = 9, 0; }
int nvrtcCreateProgram(void** program, const char* text, const char* name, int count, void* headers, void* names) {
    return *program = strdup(text), 0;
}
int nvrtcDestroyProgram(void** program) { return free(*program), 0; }
int nvrtcCompileProgram(void* program, int count, const char** options) { return strstr(program, "wrong") ? 6 : 0; }
int nvrtcGetCUBINSize(void* program, size_t* bytes) { return *bytes = strlen(program), 0; }
int nvrtcGetCUBIN(void* program, char* cubin) { return memcpy(cubin, program, strlen(program)), 0; }
int nvrtcGetProgramLogSize(void* program, size_t* bytes) { return *bytes = 9, 0; }
int nvrtcGetProgramLog(void* program, char* log) { return memcpy(log, "it says \0", 9), 0; }
