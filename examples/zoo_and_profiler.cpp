// SPDX-License-Identifier: BSD-3-Clause-Clear
// What blueprint separable convolutions save, for a few models of the zoo.
#include <torch/torch.h>
#include <bsconv/bsconv.hpp>

#include <iostream>

int main() {
  for (const auto& name : bsconv::list_models("cifar_resnet20*")) {
    const auto parsed = bsconv::parse_model_name(name);
    auto model = bsconv::create_model(name, bsconv::ModelOptions().num_classes(100));
    const auto profile =
        bsconv::profile(model, torch::zeros({1, 3, parsed.input_size(), parsed.input_size()}));
    std::cout << name << ": " << profile.parameters() << " parameters, " << profile.flops()
              << " multiply-adds\n";
  }
  auto model = bsconv::create_model("cifar_mobilenetv2_w1d2_bsconvs_p1d6");
  const auto profile = bsconv::profile(
      model, bsconv::ProfileOptions().convention(bsconv::Convention::complete).timed_runs(3),
      torch::zeros({1, 3, 32, 32}));
  std::cout << bsconv::to_table(profile,
                                bsconv::ProfileTableOptions().depth(2).human_readable(true));
}
