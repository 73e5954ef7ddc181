// An emulated compiler of kernels: a kernel becomes a library for the CPU, with `g++`.

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <string>
#include <unistd.h>

namespace {

// Of the CUDA that it says it is made for, as the driver writes it; 0 where it does not say.
std::atomic<int> version{13090};

struct Program {
    std::string text, log, library;
};

const char* const ENTRY = "extern \"C\" __global__ void ";

// The program in a namespace, and its entry points under names for the driver.
std::string whole(const std::string& text) {
    std::string all = "#include \"" FOLDER "/emulator.hpp\"\nnamespace program {\n" + text + "\n}\n";
    for (size_t at = 0; (at = text.find(ENTRY, at)) != std::string::npos;) {
        at += strlen(ENTRY);
        all += "KERNEL(program, " + text.substr(at, text.find('(', at) - at) + ")\n";
    }
    return all;
}

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
}

// As on a GPU, multiplications and additions are not fused.
bool compile(Program& program) {
    char folder[] = FOLDER "/compiled-XXXXXX";
    if (!mkdtemp(folder)) {
        return program.log = "no folder under " FOLDER, false;
    }
    std::string from = std::string(folder) + "/program.cpp", to = std::string(folder) + "/program.so";
    std::string log = std::string(folder) + "/log";
    std::ofstream(from) << whole(program.text);
    std::string command = "g++ -std=c++17 -O1 -ffp-contract=off -fno-gnu-unique -fPIC -shared -o '" + to + "' '" + from + "'";
    bool is_compiled = system((command + " > '" + log + "' 2>&1").c_str()) == 0;
    program.log = read(log);
    program.library = read(to);
    for (const std::string& path : {from, to, log}) {
        unlink(path.c_str());
    }
    rmdir(folder);
    return is_compiled;
}

// A library beside this one, which is opened by its bare name: whoever knows the folder must have done that before.
bool has_builtins() { return dlopen("libnvrtc-builtins.so", RTLD_NOW); }

int give(const std::string& bytes, char* to) {
    return memcpy(to, bytes.data(), bytes.size()), 0;
}

}

extern "C" {

int nvrtcVersion(int* major, int* minor) {
    return *major = version / 1000, *minor = version % 1000 / 10, version == 0;
}
void emulated_be_version(long number) { version = number; }

int nvrtcCreateProgram(Program** program, const char* text, const char*, int, void*, void*) {
    return *program = new Program{text, "", ""}, 0;
}

int nvrtcDestroyProgram(Program** program) { return delete *program, 0; }
int nvrtcCompileProgram(Program* program, int, const char**) {
    return !has_builtins() ? 7 : compile(*program) ? 0 : 6;
}
int nvrtcGetCUBINSize(Program* program, size_t* bytes) { return *bytes = program->library.size(), 0; }
int nvrtcGetCUBIN(Program* program, char* to) { return give(program->library, to); }
int nvrtcGetProgramLogSize(Program* program, size_t* bytes) { return *bytes = program->log.size() + 1, 0; }
int nvrtcGetProgramLog(Program* program, char* to) { return to[program->log.size()] = 0, give(program->log, to); }

}
