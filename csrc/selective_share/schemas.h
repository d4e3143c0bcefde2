// The schemas that every native library of selective_share registers.
#pragma once

#define FUSED_OPS_WEIGHTS                                                                          \
  "Tensor W_r_x, Tensor W_x, Tensor U_x, Tensor W_z_x, Tensor? W_r_y, Tensor? W_y, Tensor? U_y, " \
  "Tensor? W_z_y, bool z_keeps"

#define FUSED_OPS_SELECTIVE_SHARE_SCHEMA \
  "selective_share(Tensor x, Tensor y, " FUSED_OPS_WEIGHTS ", bool want_gates) -> (Tensor, Tensor, Tensor)"

#define FUSED_OPS_SELECTIVE_SHARE_BACKWARD_SCHEMA                                                            \
  "selective_share_backward(Tensor grad_x_out, Tensor? grad_y_out, Tensor? grad_gates, Tensor x, Tensor y, " \
  "Tensor? gates, " FUSED_OPS_WEIGHTS                                                                        \
  ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
