// An emulated driver: what the engine calls of NVIDIA's, over the host's memory. Kernels run as `emulator.hpp` runs them, and
// as late as they may: what is asked of a stream waits until the host waits for that stream, so that a result which is read
// too early, memory which is freed or changed under a copy, and an error that is looked for where it cannot be yet, show.
// With the variable EMULATED_GPU_EAGER all is done when it is asked for. What this cannot show is whether a real driver does the
// same.

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>

#include "streams.hpp"

// One thing of a graph: a kernel with its arguments, or something else to run.
struct Node {
    Kernel kernel = nullptr;
    unsigned blocks = 0, threads = 0;
    std::vector<unsigned long long> arguments;
    std::function<int()> other;
};

static std::atomic<int> driver_version{13000};

// The kinds of each kernel's arguments.
static std::mutex kinds_lock;
static std::map<void*, const char*> kinds;

// Whether memory of the host is pinned, so that copies need not be done before a call returns.
static bool is_pinned(const void* place, size_t bytes) {
    std::lock_guard<std::mutex> lock(all_lock);
    const char* first = static_cast<const char*>(place);
    auto next = pinned.upper_bound(first);
    return next != pinned.begin() && first + bytes <= std::prev(next)->first + std::prev(next)->second;
}

static std::vector<unsigned long long> copied(void* function, void** arguments) {
    std::lock_guard<std::mutex> lock(kinds_lock);
    std::vector<unsigned long long> values;
    for (const char* kind = kinds[function]; *kind; kind++) {
        unsigned long long value = 0;
        memcpy(&value, arguments[values.size()], strchr("pcw", *kind) ? 8 : 4);
        values.push_back(value);
    }
    return values;
}

static int run(Kernel kernel, unsigned blocks, unsigned threads, void** arguments) {
    if (current) {
        long left = current->launches_left;
        while (left > 0 && !current->launches_left.compare_exchange_weak(left, left - 1)) {
        }
    }
    launches++;
    return state() ? state() : kernel(nullptr, blocks, threads, 0, arguments);
}

extern "C" {

int cuInit(unsigned) {
    const char* left = getenv("EMULATED_GPU_LAUNCHES");
    for (Device& device : devices) {
        if (left && device.launches_left < 0) {
            device.launches_left = atol(left);
        }
    }
    return 0;
}
int cuDeviceGetCount(int* count) { return *count = GPUS, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char* name, int, int) { return strcpy(name, "Emulated GPU"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = MEMORY_BYTES, 0; }
// Version 9.0, with pools of memory.
int cuDeviceGetAttribute(int* value, int attribute, int) {
    return *value = attribute == 75 ? 9 : attribute == 115, 0;
}

int cuDevicePrimaryCtxRetain(Device** context, int device) { return handles++, *context = &devices[device], 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return handles--, 0; }
int cuCtxGetCurrent(Device** context) { return *context = current, 0; }
int cuCtxSetCurrent(Device* context) { return current = context, 0; }
// While one of its streams is captured nobody may wait for all of it; if somebody does, nothing comes of the capture either.
int cuCtxSynchronize() {
    if (current && current->captures) {
        current->is_disturbed = true;
        return CAPTURE_UNSUPPORTED;
    }
    return do_all_of(current), state();
}
int cuDriverGetVersion(int* version) { return *version = driver_version, 0; }

int cuStreamCreate(Stream** stream, unsigned) {
    std::lock_guard<std::mutex> lock(all_lock);
    *stream = new Stream{current};
    return handles++, streams.insert(*stream), 0;
}

int cuStreamDestroy_v2(Stream* stream) {
    std::lock_guard<std::mutex> lock(all_lock);
    do_all(stream);
    // It stays: an event may name it.
    return handles--, streams.erase(stream), 0;
}

int cuStreamSynchronize(Stream* stream) {
    if (stream && !stream->capturing) {
        do_all(stream);
    }
    return state_outside(stream);
}

// What is asked of the stream later begins once all is done that the event's had been asked for.
int cuStreamWaitEvent(Stream* stream, const Event* event, unsigned) {
    Event recorded = *event;
    int failed = state_outside(stream);
    return failed ? failed : ask(stream, {[recorded] { return do_until(recorded), 0; }, true, nullptr});
}

int cuEventCreate(Event** event, unsigned) { return state() ? state() : (handles++, *event = new Event, 0); }
int cuEventDestroy_v2(Event* event) { return handles--, delete event, 0; }
int cuEventRecord(Event* event, Stream* stream) {
    if (state_outside(stream)) {
        return state_outside(stream);
    }
    std::lock_guard<std::mutex> lock(stream->lock);
    return *event = Event{stream, stream->asked}, 0;
}
int cuEventSynchronize(const Event* event) { return do_until(*event), state(); }

int cuStreamBeginCapture_v2(Stream* stream, int) {
    if (stream->capturing || state()) {
        return CAPTURE_UNSUPPORTED;
    }
    stream->device->is_disturbed = false;
    return handles++, stream->device->captures++, stream->capturing = new Graph, 0;
}

int cuStreamEndCapture(Stream* stream, Graph** graph) {
    *graph = stream->capturing;
    stream->capturing = nullptr;
    if (!*graph) {
        return CAPTURE_UNMATCHED;
    }
    stream->device->captures--;
    if (stream->device->is_disturbed) {
        handles--, delete *graph, *graph = nullptr;
        return CAPTURE_INVALIDATED;
    }
    return 0;
}

// What is captured next would come behind the last node.
int cuStreamGetCaptureInfo_v3(Stream* stream, int* status, void*, Graph** graph, Node*** last, void*, size_t* count) {
    static thread_local Node* node;
    *status = stream->capturing != nullptr;
    *graph = stream->capturing;
    *count = stream->capturing && !stream->capturing->empty();
    node = *count ? stream->capturing->back().get() : nullptr;
    *last = &node;
    return 0;
}

// A graph that can be launched is the same graph.
int cuGraphInstantiateWithFlags(Graph** launched, Graph* graph, unsigned long long) {
    return handles++, *launched = graph, 0;
}
int cuGraphExecDestroy(void*) { return handles--, 0; }
int cuGraphDestroy(Graph* graph) { return handles--, delete graph, 0; }

struct NodeParameters {
    void* function;
    unsigned blocks, y, z, threads, v, w, shared_bytes;
    void **arguments, **extra;
};

int cuGraphExecKernelNodeSetParams_v2(Graph*, Node* node, const NodeParameters* given) {
    bool is_same = node->kernel == reinterpret_cast<Kernel>(given->function) && node->blocks == given->blocks;
    if (!is_same || node->threads != given->threads || given->y * given->z * given->v * given->w != 1) {
        return INVALID_VALUE;
    }
    node->arguments = copied(given->function, given->arguments);
    return state();
}

// Its arguments are those that it has now.
int cuGraphLaunch(Graph* graph, Stream* stream) {
    auto nodes = std::make_shared<std::vector<Node>>();
    for (auto& node : *graph) {
        nodes->push_back(*node);
    }
    return ask(stream, {[nodes] {
        graph_launches++;
        int failed = state();
        for (auto node = nodes->begin(); !failed && node != nodes->end(); ++node) {
            if (node->other) {
                failed = node->other();
                continue;
            }
            std::vector<void*> arguments;
            for (unsigned long long& value : node->arguments) {
                arguments.push_back(&value);
            }
            failed = run(node->kernel, node->blocks, node->threads, arguments.data());
        }
        return failed;
    }, false, nullptr});
}

// Has a stream run something, or the graph that is captured on it.
int emulated_run(Stream* stream, const std::function<int()>& other) {
    if (!stream || !stream->capturing) {
        return ask(stream, {other, false, nullptr});
    }
    stream->capturing->emplace_back(new Node);
    stream->capturing->back()->other = other;
    return 0;
}

int cuMemGetInfo_v2(size_t* free_bytes, size_t* bytes) {
    return state() ? state() : (*free_bytes = MEMORY_BYTES - current->used_bytes, *bytes = MEMORY_BYTES, 0);
}

int cuMemAllocAsync(Pointer* pointer, size_t bytes, Stream* stream) {
    if (bytes == 0 || state_outside(stream)) {
        return bytes == 0 ? INVALID_VALUE : state_outside(stream);
    }
    if ((current->used_bytes += bytes) > MEMORY_BYTES) {
        // What was freed comes back once all that was asked before is done.
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

int cuMemFreeAsync(Pointer pointer, Stream* stream) {
    if (!current) {
        return INVALID_CONTEXT;
    }
    Device* device = current;
    int asked = ask(stream, {[=] {
        size_t* memory = reinterpret_cast<size_t*>(pointer) - 2;
        device->used_bytes -= *memory;
        memset(memory + 2, 0xff, *memory);
        return free(memory), 0;
    }, true, nullptr});
    // A graph gives back only what it was given. A real driver has lost that memory then, which here would hide what else is left.
    return stream && stream->capturing ? INVALID_VALUE : asked;
}

int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, Stream* stream) {
    int failed = state_outside(stream);
    if (failed) {
        return failed;
    }
    sent_bytes += bytes;
    if (is_pinned(from, bytes)) {
        return ask(stream, {[=] { return memcpy(reinterpret_cast<void*>(to), from, bytes), 0; }, false,
                            static_cast<const char*>(from)});
    }
    // Memory that is not pinned is read before the call returns.
    auto kept = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return ask(stream, {[=] { return memcpy(reinterpret_cast<void*>(to), kept->data(), bytes), 0; }, false, nullptr});
}

int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, Stream* stream) {
    int failed = state_outside(stream);
    if (failed) {
        return failed;
    }
    auto copy = [=] { return memcpy(to, reinterpret_cast<void*>(from), bytes), 0; };
    if (is_pinned(to, bytes)) {
        return ask(stream, {copy, false, static_cast<const char*>(to)});
    }
    // And written likewise.
    do_all(stream);
    return state() ? state() : copy();
}

int cuMemHostAlloc(void** place, size_t bytes, unsigned) {
    if (state()) {
        return state();
    }
    std::lock_guard<std::mutex> lock(all_lock);
    if (pins_left == 0) {
        return OUT_OF_MEMORY;
    }
    pins_left -= pins_left > 0;
    *place = malloc(bytes);
    pinned[static_cast<char*>(*place)] = bytes;
    return handles++, allocations++, 0;
}

// Nothing may be under way to or from it.
int cuMemFreeHost(void* place) {
    std::lock_guard<std::mutex> lock(all_lock);
    auto found = pinned.find(static_cast<char*>(place));
    for (Stream* stream : streams) {
        std::lock_guard<std::mutex> waits(stream->lock);
        for (const Asked& asked : stream->waiting) {
            if (asked.host && asked.host >= found->first && asked.host < found->first + found->second) {
                fprintf(stderr, "memory of the host was freed that a copy still needs\n");
                abort();
            }
        }
    }
    pinned.erase(found);
    return handles--, free(place), 0;
}

int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Stream* stream) {
    return state() ? state() : emulated_run(stream, [=] {
        return memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), 0;
    });
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

int cuModuleUnload(void* module) { return do_all_of(nullptr), handles--, dlclose(module); }

int cuModuleGetFunction(void** function, void* module, const char* name) {
    char symbol[256];
    snprintf(symbol, sizeof symbol, "run_%s", name);
    *function = dlsym(module, symbol);
    snprintf(symbol, sizeof symbol, "letters_%s", name);
    void* letters = dlsym(module, symbol);
    if (!*function || !letters) {
        return NOT_FOUND;
    }
    std::lock_guard<std::mutex> lock(kinds_lock);
    kinds[*function] = reinterpret_cast<const char* (*)()>(letters)();
    return 0;
}

int cuLaunchKernel(void* function, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned v, unsigned w,
                   unsigned, Stream* stream, void** arguments, void**) {
    if (y * z * v * w != 1 || blocks == 0 || threads == 0) {
        return INVALID_VALUE;
    }
    Kernel kernel = reinterpret_cast<Kernel>(function);
    Node node{kernel, blocks, threads, copied(function, arguments), nullptr};
    if (stream && stream->capturing) {
        stream->capturing->emplace_back(new Node(node));
        return state();
    }
    return ask(stream, {[node]() mutable {
        std::vector<void*> arguments;
        for (unsigned long long& value : node.arguments) {
            arguments.push_back(&value);
        }
        return run(node.kernel, node.blocks, node.threads, arguments.data());
    }, false, nullptr});
}

// Contexts, streams and programs that nobody has given back, bytes likewise, and what was asked for since the beginning.
long emulated_handles() { return handles; }
long emulated_bytes() {
    do_all_of(nullptr);
    long bytes = 0;
    for (Device& device : devices) {
        bytes += device.used_bytes;
    }
    return bytes;
}
long emulated_allocations() { return allocations; }
long emulated_launches() { return launches; }
long emulated_graph_launches() { return graph_launches; }
long emulated_sent_bytes() { return sent_bytes; }
void emulated_be_version(long version) { driver_version = version; }
void emulated_pin_at_most(long pieces) { pins_left = pieces; }
// Loses a device at one of its next launches, counted from 1, or at once; never, for a negative number.
void emulated_lose_after(int device, long count) {
    do_all_of(&devices[device]);
    devices[device].launches_left = count;
}

}
