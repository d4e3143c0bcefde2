// Of cuBLAS and cuDNN what has to answer something: handles, descriptors, algorithms. All compute nothing.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cudnn.h>

#include <cstdlib>
#include <cstring>

namespace {

template <typename Handle>
int make(Handle* found) {
  return *found = static_cast<Handle>(std::calloc(1, 256)), 0;  // never looked into
}
cudaStream_t stream_of_cudnn;

}  // namespace

extern "C" {

void null_card_add_node(void* stream);

cublasStatus_t cublasCreate_v2(cublasHandle_t* found) { return cublasStatus_t(make(found)); }
cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t* found) {
  return *found = CUBLAS_DEFAULT_MATH, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t, cublasPointerMode_t* found) {
  return *found = CUBLAS_POINTER_MODE_HOST, CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* found, cublasComputeType_t, cudaDataType_t) {
  return cublasStatus_t(make(found));
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* found, cudaDataType, uint64_t, uint64_t, int64_t) {
  return cublasStatus_t(make(found));
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* found) { return cublasStatus_t(make(found)); }
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t* found,
                                              int* count) {
  std::memset(found, 0, sizeof *found);
  return *count = 1, CUBLAS_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* found) { return cudnnStatus_t(make(found)); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t stream) {
  return stream_of_cudnn = stream, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t, cudaStream_t* found) {
  return *found = stream_of_cudnn, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* found) { return cudnnStatus_t(make(found)); }
cudnnStatus_t cudnnCreateActivationDescriptor(cudnnActivationDescriptor_t* found) { return cudnnStatus_t(make(found)); }
cudnnStatus_t cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(
    cudnnHandle_t, cudnnBatchNormMode_t, cudnnBatchNormOps_t, const cudnnTensorDescriptor_t,
    const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t,
    const cudnnActivationDescriptor_t, size_t* size) {
  return *size = 0, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetBatchNormalizationBackwardExWorkspaceSize(
    cudnnHandle_t, cudnnBatchNormMode_t, cudnnBatchNormOps_t, const cudnnTensorDescriptor_t,
    const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t,
    const cudnnTensorDescriptor_t, const cudnnTensorDescriptor_t, const cudnnActivationDescriptor_t, size_t* size) {
  return *size = 0, CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetBatchNormalizationTrainingExReserveSpaceSize(cudnnHandle_t, cudnnBatchNormMode_t,
                                                                   cudnnBatchNormOps_t,
                                                                   const cudnnActivationDescriptor_t,
                                                                   const cudnnTensorDescriptor_t, size_t* size) {
  return *size = 0, CUDNN_STATUS_SUCCESS;
}
// Convolutions go through cuDNN's graphs: of engines there is one, without knobs, notes or workspace.
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t* found) {
  return cudnnStatus_t(make(found));
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  return std::free(descriptor), CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t wanted, int64_t* count, void* found) {
  const bool none = name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE || name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE ||
                    name == CUDNN_ATTR_ENGINE_KNOB_INFO || name == CUDNN_ATTR_ENGINECFG_KNOB_CHOICES;
  if (count) *count = none ? 0 : 1;
  if (found && wanted > 0 && !none && type != CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    std::memset(found, 0, type == CUDNN_TYPE_INT64 ? 8 : type == CUDNN_TYPE_BOOLEAN ? sizeof(bool) : 4);
  }
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t) {
  return null_card_add_node(stream_of_cudnn), CUDNN_STATUS_SUCCESS;
}

}  // extern "C"
