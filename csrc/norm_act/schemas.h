// The schemas that every native library of norm_act registers; those of fused_ops/norm_act/op.py.
#pragma once

#define FUSED_OPS_NORM_ACT_SCHEMA                                                                           \
  "norm_act(Tensor x, Tensor? gamma, Tensor? beta, Tensor? residual, Tensor? noise, Tensor? noise_scale, " \
  "Tensor? mean, Tensor? var, int groups, float eps, int activation, float slope) -> (Tensor, Tensor, Tensor)"

#define FUSED_OPS_NORM_ACT_BACKWARD_SCHEMA                                                               \
  "norm_act_backward(Tensor grad, Tensor x, Tensor? y, Tensor? gamma, Tensor? beta, Tensor? residual, " \
  "Tensor? noise, Tensor? noise_scale, Tensor mean, Tensor var, bool given, int groups, float eps, "    \
  "int activation, float slope, bool restore, bool need_x, bool need_affine, bool need_residual, "      \
  "bool need_noise, bool need_noise_scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"

#define FUSED_OPS_NORM_ACT_POOL_SCHEMA                                                                      \
  "norm_act_pool(Tensor x, Tensor? gamma, Tensor? beta, Tensor? residual, Tensor? mean, Tensor? var, "     \
  "int groups, float eps, int activation, float slope, bool need_winner) -> (Tensor, Tensor, Tensor, Tensor)"

#define FUSED_OPS_NORM_ACT_POOL_BACKWARD_SCHEMA                                                                  \
  "norm_act_pool_backward(Tensor grad, Tensor? y, Tensor winner, int height, int width, int activation, "       \
  "float slope) -> Tensor"

// Of the GPU's library alone.
#define FUSED_OPS_NORM_ACT_MOVE_SCHEMA                                                                      \
  "norm_act_move(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, float momentum, " \
  "float unbias) -> ()"
