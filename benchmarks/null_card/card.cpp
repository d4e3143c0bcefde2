// CUDA's runtime and driver for a card that computes nothing: device memory is the host's, which no kernel writes to.
// Checked is what a real card refuses: launches beyond its limits, pointers that are not its own, and during the
// capture of a graph whatever waits, allocates or copies from pageable memory. What is not here returns success and
// does nothing (__main__.py makes it).
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <vector>

namespace {

// An H100's, as its whitepaper and CUDA's documentation have them.
constexpr int kProcessors = 132, kSharedBytes = 232448, kL2Bytes = 50 << 20, kCapability = 9;
constexpr size_t kMemory = size_t(80) << 30;
constexpr size_t kLargestCopy = 1 << 12;  // what is copied within the card or filled beyond this takes no time here

struct Capture;
struct Stream {
  Capture* capture = nullptr;
  unsigned flags = cudaStreamDefault;
};
struct Capture {
  std::vector<Stream*> streams;  // the first began it; others have joined by waiting for its events
  size_t nodes = 0;
  bool broken = false;
};
struct Event {
  Capture* capture = nullptr;
  std::chrono::steady_clock::time_point time;
};
struct Graph {
  size_t nodes;
};
struct Call {
  dim3 grid, block;
  size_t shared;
  void* stream;
};

std::recursive_mutex mutex;
std::map<const char*, size_t> on_device, pinned;
std::set<Capture*> captures;
size_t in_use = 0;
thread_local int device = 0;
thread_local cudaError_t last = cudaSuccess;
thread_local std::vector<Call> configured;
thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;

using Lock = std::lock_guard<std::recursive_mutex>;

int cards() {
  const char* wanted = std::getenv("NULL_CARDS");
  return wanted ? std::atoi(wanted) : 1;
}
Stream& stream_of(void* handle) {
  static Stream legacy;
  return handle && handle != cudaStreamLegacy && handle != cudaStreamPerThread ? *static_cast<Stream*>(handle) : legacy;
}
cudaError_t refuse(cudaError_t error, const char* what) {
  std::fprintf(stderr, "null card: %s\n", what);
  return last = error;
}
// During a capture, but where the thread has said that this is none of it.
cudaError_t refuse_in_capture(const char* what) {
  if (captures.empty() || mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (Capture* capture : captures) capture->broken = true;
  return refuse(cudaErrorStreamCaptureUnsupported, what);
}
cudaError_t refuse_in_capture(void* handle, const char* what) {
  Capture* capture = stream_of(handle).capture;
  if (!capture) return cudaSuccess;
  capture->broken = true;
  return refuse(cudaErrorStreamCaptureUnsupported, what);
}
bool within(const std::map<const char*, size_t>& memory, const void* place) {
  const char* at = static_cast<const char*>(place);
  auto next = memory.upper_bound(at);
  return next != memory.begin() && at < std::prev(next)->first + std::prev(next)->second;
}
bool is_known(const void* place) { return within(on_device, place) || within(pinned, place); }
void* map_memory(size_t size) {
  void* found = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return found == MAP_FAILED ? nullptr : found;
}
void add_node(void* handle) {
  if (Capture* capture = stream_of(handle).capture) ++capture->nodes;
}
cudaError_t copy(void* to, const void* from, size_t size) {
  if (size <= kLargestCopy || !within(on_device, to) || !within(on_device, from)) std::memmove(to, from, size);
  return cudaSuccess;
}
cudaError_t launch(const Call& call, const char* name) {
  const Lock lock(mutex);
  const auto [grid, block, shared, handle] = call;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 0xffff || grid.z > 0xffff || !block.x ||
      !block.y || !block.z || block.x * block.y * block.z > 1024 || shared > kSharedBytes) {
    std::fprintf(stderr, "null card: %s on (%u, %u, %u) blocks of (%u, %u, %u) threads with %zu bytes\n", name, grid.x,
                 grid.y, grid.z, block.x, block.y, block.z, shared);
    return last = cudaErrorInvalidConfiguration;
  }
  add_node(handle);
  return cudaSuccess;
}
int attribute(int which) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 0x7fffffff;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return 0xffff;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return kSharedBytes;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return 228 << 10;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: return 1 << 16;
    case cudaDevAttrClockRate: return 1980000;
    case cudaDevAttrMemoryClockRate: return 2619000;
    case cudaDevAttrGlobalMemoryBusWidth: return 5120;
    case cudaDevAttrMultiProcessorCount: return kProcessors;
    case cudaDevAttrL2CacheSize: return kL2Bytes;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return 32;
    case cudaDevAttrComputeCapabilityMajor: return kCapability;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCooperativeLaunch: return 1;
    default: return 0;
  }
}
CUresult do_nothing() { return CUDA_SUCCESS; }

}  // namespace

extern "C" {

void null_card_add_node(void* stream) {
  const Lock lock(mutex);
  add_node(stream);
}

// ---- devices -------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) { return *count = cards(), cudaSuccess; }
cudaError_t cudaGetDevice(int* current) { return *current = device, cudaSuccess; }
cudaError_t cudaSetDevice(int wanted) {
  if (wanted < 0 || wanted >= cards()) return refuse(cudaErrorInvalidDevice, "there is no such card");
  return device = wanted, cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return *value = attribute(which), cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 1, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int which) {
  std::memset(found, 0, sizeof *found);
  std::strcpy(found->name, "null card (as H100)");
  found->uuid.bytes[0] = char(which + 1), found->pciBusID = which;
  found->totalGlobalMem = kMemory, found->sharedMemPerBlock = 48 << 10, found->regsPerBlock = 1 << 16;
  found->warpSize = 32, found->maxThreadsPerBlock = 1024, found->totalConstMem = 1 << 16;
  found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024, found->maxThreadsDim[2] = 64;
  found->maxGridSize[0] = 0x7fffffff, found->maxGridSize[1] = found->maxGridSize[2] = 0xffff;
  found->major = kCapability, found->multiProcessorCount = kProcessors, found->l2CacheSize = kL2Bytes;
  found->maxThreadsPerMultiProcessor = 2048, found->regsPerMultiprocessor = 1 << 16;
  found->sharedMemPerMultiprocessor = 228 << 10, found->sharedMemPerBlockOptin = kSharedBytes;
  found->memoryBusWidth = 5120, found->unifiedAddressing = found->concurrentKernels = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  const Lock lock(mutex);
  return refuse_in_capture("waiting for the card during a capture");
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  return last = cudaSuccess, error;
}
cudaError_t cudaPeekAtLastError() { return last; }
const char* cudaGetErrorName(cudaError_t) { return "of the null card"; }
const char* cudaGetErrorString(cudaError_t error) {
  static thread_local char text[32];
  return std::snprintf(text, sizeof text, "null card, error %d", int(error)), text;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** found, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  *found = dlsym(RTLD_DEFAULT, name);
  if (!*found) *found = reinterpret_cast<void*>(&do_nothing);
  if (status) *status = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// ---- memory --------------------------------------------------------------------------------------------------------

cudaError_t cudaMemGetInfo(size_t* left, size_t* all) {
  const Lock lock(mutex);
  return *all = kMemory, *left = kMemory - in_use, cudaSuccess;
}
cudaError_t cudaMalloc(void** found, size_t size) {
  const Lock lock(mutex);
  if (const cudaError_t error = refuse_in_capture("taking memory during a capture")) return error;
  if (in_use + size > kMemory || !(*found = map_memory(size))) return last = cudaErrorMemoryAllocation;
  return on_device[static_cast<char*>(*found)] = size, in_use += size, cudaSuccess;
}
cudaError_t cudaFree(void* place) {
  const Lock lock(mutex);
  if (!place) return cudaSuccess;
  if (const cudaError_t error = refuse_in_capture("giving memory back during a capture")) return error;
  const auto found = on_device.find(static_cast<char*>(place));
  if (found == on_device.end()) return refuse(cudaErrorInvalidValue, "giving back what was not taken");
  munmap(place, found->second), in_use -= found->second, on_device.erase(found);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** found, size_t size, unsigned) {
  const Lock lock(mutex);
  if (!(*found = map_memory(size))) return last = cudaErrorMemoryAllocation;
  return pinned[static_cast<char*>(*found)] = size, cudaSuccess;
}
cudaError_t cudaFreeHost(void* place) {
  const Lock lock(mutex);
  const auto found = pinned.find(static_cast<char*>(place));
  if (found != pinned.end()) munmap(place, found->second), pinned.erase(found);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* place, size_t size, unsigned) {
  const Lock lock(mutex);
  return pinned[static_cast<char*>(place)] = size, cudaSuccess;
}
cudaError_t cudaHostUnregister(void* place) {
  const Lock lock(mutex);
  return pinned.erase(static_cast<char*>(place)), cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  const Lock lock(mutex);
  if (const cudaError_t error = refuse_in_capture("a copy that waits, during a capture")) return error;
  return copy(to, from, size);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  const Lock lock(mutex);
  if (!is_known(to) || !is_known(from)) {
    if (const cudaError_t error = refuse_in_capture(stream, "a copy of pageable memory during a capture")) return error;
  }
  return add_node(stream), copy(to, from, size);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, stream);
}
cudaError_t cudaMemsetAsync(void* place, int value, size_t size, cudaStream_t stream) {
  const Lock lock(mutex);
  if (size <= kLargestCopy && !stream_of(stream).capture) std::memset(place, value, size);
  return add_node(stream), cudaSuccess;
}
cudaError_t cudaMemset(void* place, int value, size_t size) { return cudaMemsetAsync(place, value, size, nullptr); }
cudaError_t cudaGetSymbolAddress(void** found, const void*) {
  static void* const memory = map_memory(1 << 16);
  return *found = memory, cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* place) {
  const Lock lock(mutex);
  *found = {cudaMemoryTypeUnregistered, device};
  if (is_known(place)) {
    found->type = within(on_device, place) ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
    found->devicePointer = const_cast<void*>(place);
  }
  return cudaSuccess;
}

// ---- streams and events --------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* found, unsigned flags, int) {
  return *found = reinterpret_cast<cudaStream_t>(new Stream{nullptr, flags}), cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* found, unsigned flags) {
  return cudaStreamCreateWithPriority(found, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* found) { return cudaStreamCreateWithPriority(found, cudaStreamDefault, 0); }
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { return *priority = 0, cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Lock lock(mutex);
  return refuse_in_capture(stream, "asking whether a stream is done, during its capture");
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock lock(mutex);
  return refuse_in_capture(stream, "waiting for a stream during its capture");
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Lock lock(mutex);
  Capture* const capture = reinterpret_cast<Event*>(event)->capture;
  Stream& mine = stream_of(stream);
  if (capture && captures.count(capture)) {
    if (!stream) {
      capture->broken = true;
      return refuse(cudaErrorStreamCaptureImplicit, "the legacy stream would become part of a capture");
    }
    if (!mine.capture) mine.capture = capture, capture->streams.push_back(&mine);
  } else if (mine.capture) {
    mine.capture->broken = true;
    return refuse(cudaErrorStreamCaptureIsolation, "waiting for an event from outside of the capture");
  }
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) { return function(data), cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* found, unsigned) {
  return *found = reinterpret_cast<cudaEvent_t>(new Event), cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* found) { return cudaEventCreateWithFlags(found, cudaEventDefault); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete reinterpret_cast<Event*>(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Lock lock(mutex);
  *reinterpret_cast<Event*>(event) = {stream_of(stream).capture, std::chrono::steady_clock::now()};
  return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(mutex);
  Capture* const capture = reinterpret_cast<Event*>(event)->capture;
  if (!capture || !captures.count(capture)) return refuse_in_capture("asking for an event during a capture");
  capture->broken = true;
  return refuse(cudaErrorCapturedEvent, "asking for a captured event");
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return cudaEventQuery(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const std::chrono::duration<float, std::milli> between =
      reinterpret_cast<Event*>(to)->time - reinterpret_cast<Event*>(from)->time;
  return *milliseconds = between.count() + 1e-3f, cudaSuccess;  // never nothing, by which people divide
}

// ---- graphs --------------------------------------------------------------------------------------------------------

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* other) {
  return std::swap(*other, mode), cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock(mutex);
  if (!stream) return refuse(cudaErrorStreamCaptureUnsupported, "a capture of the legacy stream");
  if (stream_of(stream).capture) return refuse(cudaErrorIllegalState, "a capture within a capture");
  auto* const capture = stream_of(stream).capture = new Capture;
  return capture->streams.push_back(&stream_of(stream)), captures.insert(capture), cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* found) {
  const Lock lock(mutex);
  Capture* const capture = stream_of(stream).capture;
  if (!capture || capture->streams.front() != &stream_of(stream)) {
    return refuse(cudaErrorIllegalState, "the end of a capture that did not begin here");
  }
  for (Stream* each : capture->streams) each->capture = nullptr;
  captures.erase(capture);
  *found = capture->broken ? nullptr : reinterpret_cast<cudaGraph_t>(new Graph{capture->nodes});
  return capture->broken ? refuse(cudaErrorStreamCaptureInvalidated, "the capture is broken") : cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                     size_t* count) {
  const Lock lock(mutex);
  const Capture* const capture = stream_of(stream).capture;
  *status = !capture            ? cudaStreamCaptureStatusNone
            : capture->broken ? cudaStreamCaptureStatusInvalidated
                                : cudaStreamCaptureStatusActive;
  static Graph unfinished{1};
  if (id) *id = reinterpret_cast<unsigned long long>(capture);
  if (graph) *graph = reinterpret_cast<cudaGraph_t>(&unfinished);
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* found, cudaGraph_t graph, unsigned long long) {
  return *found = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph))), cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  return *count = reinterpret_cast<Graph*>(graph)->nodes, cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t stream) {
  const Lock lock(mutex);
  return add_node(stream), cudaSuccess;
}

// ---- kernels -------------------------------------------------------------------------------------------------------

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  std::memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024, found->numRegs = 32, found->binaryVersion = found->ptxVersion = 10 * kCapability;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute which, int value) {
  const bool beyond = which == cudaFuncAttributeMaxDynamicSharedMemorySize && value > kSharedBytes;
  return beyond ? refuse(cudaErrorInvalidValue, "more shared memory than there is") : cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  return *blocks = 2, cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void*, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t stream) {
  return launch({grid, block, shared, stream}, "a kernel");
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* call, const void*, void**) {
  return launch({call->gridDim, call->blockDim, call->dynamicSmemBytes, call->stream}, "a kernel");
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t stream) {
  return launch({grid, block, shared, stream}, "a kernel");
}
cudaError_t __cudaGetKernel(cudaKernel_t* found, const void* function) {
  return *found = static_cast<cudaKernel_t>(const_cast<void*>(function)), cudaSuccess;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  return configured.push_back({grid, block, shared, stream}), 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Call call = configured.back();
  *grid = call.grid, *block = call.block, *shared = call.shared, *static_cast<void**>(stream) = call.stream;
  return configured.pop_back(), cudaSuccess;
}
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
char __cudaInitModule(void**) { return 1; }

// ---- the driver, by which Triton and Inductor launch ---------------------------------------------------------------

CUresult cuDriverGetVersion(int* version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* found, int which) { return *found = which, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = cards(), CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  return *value = attribute(which), CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* found) { return *found = device, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* found) { return cuDevicePrimaryCtxRetain(found, device); }
CUresult cuCtxSetCurrent(CUcontext context) {
  if (context) device = int(reinterpret_cast<size_t>(context)) - 1;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetLimit(size_t* value, CUlimit) { return *value = 1 << 20, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* found, CUdevice which) {
  return *found = reinterpret_cast<CUcontext>(size_t(which) + 1), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  return *flags = 0, *active = 1, CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult error, const char** text) {
  return *text = cudaGetErrorString(cudaError_t(error)), CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void* found, CUpointer_attribute, CUdeviceptr place) {
  const Lock lock(mutex);
  if (!is_known(reinterpret_cast<void*>(place))) {
    return refuse(cudaErrorInvalidValue, "a pointer that is not the card's"), CUDA_ERROR_INVALID_VALUE;
  }
  return *static_cast<CUdeviceptr*>(found) = place, CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule* found, const void*) {
  const Lock lock(mutex);
  return *found = reinterpret_cast<CUmodule>(1), CUresult(refuse_in_capture("loading a kernel during a capture"));
}
CUresult cuModuleLoad(CUmodule* found, const char*) { return cuModuleLoadData(found, nullptr); }
CUresult cuModuleGetFunction(CUfunction* found, CUmodule, const char* name) {
  return *found = reinterpret_cast<CUfunction>(strdup(name)), CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction) {
  *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : which == CU_FUNC_ATTRIBUTE_NUM_REGS ? 64 : 0;
  return CUDA_SUCCESS;
}
CUresult cuLaunchKernelEx(const CUlaunchConfig* call, CUfunction function, void**, void**) {
  const dim3 grid(call->gridDimX, call->gridDimY, call->gridDimZ);
  const dim3 block(call->blockDimX, call->blockDimY, call->blockDimZ);
  return CUresult(launch({grid, block, call->sharedMemBytes, call->hStream}, reinterpret_cast<char*>(function)));
}
CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void**, void**) {
  const Call call{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream};
  return CUresult(launch(call, reinterpret_cast<char*>(function)));
}
CUresult cuOccupancyMaxActiveClusters(int* clusters, CUfunction, const CUlaunchConfig*) {
  return *clusters = 8, CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int, size_t) {
  return *blocks = 2, CUDA_SUCCESS;
}

}  // extern "C"
