// Streams of an emulated driver: what they are asked for waits until somebody waits for it.

#include <atomic>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

typedef unsigned long long Pointer;
typedef int (*Kernel)(const char* letters, unsigned blocks, unsigned threads, int backwards, void** arguments);

enum {
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 904,
};

struct Device {
    std::atomic<long> used_bytes{0};
    // Launches until it is lost, if it is to be; 0 once it is.
    std::atomic<long> launches_left{-1};
    // What a kernel has failed with: every call says it from then on.
    std::atomic<int> failed{0};
    // Streams that are captured, and whether somebody has waited for all of the device meanwhile.
    std::atomic<int> captures{0};
    std::atomic<bool> is_disturbed{false};
};

struct Node;
typedef std::vector<std::unique_ptr<Node>> Graph;

// What waits on a stream to be done.
struct Asked {
    std::function<int()> act;
    // Also after the device is lost.
    bool is_always_done;
    // The host's memory that it reads or writes.
    const char* host;
};

struct Stream {
    Device* device;
    // What is asked of it meanwhile is done when that graph is launched.
    Graph* capturing = nullptr;
    std::mutex lock;
    std::deque<Asked> waiting;
    // How many things have come to wait there so far, and how many of them are done.
    long asked = 0;
    std::atomic<long> done{0};
};

// What a stream had been asked for when it was recorded there.
struct Event {
    Stream* stream = nullptr;
    long asked = 0;
};

// So many things wait at most, as with a real driver: whoever asks for more waits for the first.
const size_t WAITING_MAX = 1024;

static Device devices[GPUS];
static std::atomic<long> handles, allocations, launches, graph_launches, sent_bytes;
static thread_local Device* current;

// All streams, and the host's memory that was pinned, with its length.
static std::mutex all_lock;
static std::set<Stream*> streams;
static std::map<const char*, size_t> pinned;
// Pieces that may still be pinned; any number, for a negative one.
static std::atomic<long> pins_left{-1};

// What every call says once the device is lost.
static int state() {
    return !current ? INVALID_CONTEXT : current->launches_left == 0 ? ILLEGAL_ADDRESS : current->failed.load();
}

// The same for a call that no graph can have.
static int state_outside(const Stream* stream) {
    return stream && stream->capturing ? CAPTURE_UNSUPPORTED : state();
}

// Does the first thing that waits there; its lock is held.
static void do_first(Stream* stream) {
    Asked first = stream->waiting.front();
    Device* caller = current;
    current = stream->device;
    if (first.is_always_done || !state()) {
        int failed = first.act();
        if (failed && !state()) {
            current->failed = failed;
        }
    }
    current = caller;
    stream->waiting.pop_front();
    stream->done++;
}

static void do_all(Stream* stream) {
    std::lock_guard<std::mutex> lock(stream->lock);
    while (!stream->waiting.empty()) {
        do_first(stream);
    }
}

// Does what waits on all streams of a device, or of all.
static void do_all_of(Device* device) {
    std::lock_guard<std::mutex> lock(all_lock);
    for (Stream* stream : streams) {
        if (!device || stream->device == device) {
            do_all(stream);
        }
    }
}

// Has a stream do something once all is done that was asked of it before.
static int ask(Stream* stream, const Asked& asked) {
    static const bool is_eager = getenv("EMULATED_GPU_EAGER");
    if (!stream || (is_eager && stream->waiting.empty())) {
        return asked.act();
    }
    if (state() && !asked.is_always_done) {
        return state();
    }
    std::lock_guard<std::mutex> lock(stream->lock);
    if (stream->waiting.size() == WAITING_MAX) {
        do_first(stream);
    }
    stream->waiting.push_back(asked);
    stream->asked++;
    return 0;
}

// Does what a stream had been asked for at an event. Who holds its lock may be on the way to that, and may wait for the stream
// that this is called from, but not for a later thing of it: so it is tried again until it is done.
static void do_until(const Event& event) {
    while (event.stream && event.stream->done < event.asked) {
        std::unique_lock<std::mutex> lock(event.stream->lock, std::try_to_lock);
        if (!lock) {
            std::this_thread::yield();
        } else if (!event.stream->waiting.empty()) {
            do_first(event.stream);
        }
    }
}
