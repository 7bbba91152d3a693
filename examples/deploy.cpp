// SPDX-License-Identifier: BSD-3-Clause-Clear
// From a trained model to a service: fetched by name, made fast, run by several threads, and handed
// on as weights for Python and as an ONNX file.
#include <bsconv/bsconv.hpp>
#include <bsconv/data.hpp>
#include <bsconv/export.hpp>
#include <bsconv/infer.hpp>
#include <bsconv/pretrained.hpp>
#include <bsconv/weights.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

int main(int argc, char** argv) try {
  const std::filesystem::path folder = argc > 1 ? argv[1] : std::filesystem::temp_directory_path();

  // In evaluation mode already; on a GPU with Pretrained().device(torch::kCUDA).
  const auto model = bsconv::create_model("cifar_resnet20_bsconvu.digits", bsconv::Pretrained());
  const auto fast = bsconv::optimize(model, torch::zeros({1, 3, 32, 32}));
  std::cout << fast.report() << '\n';

  // Any number of threads may run it at once, on batches of any size.
  const bsconv::data::DataLoader digits(bsconv::data::digits(bsconv::data::Split::test),
                                        bsconv::data::LoaderOptions().batch_size(64));
  std::vector<int64_t> correct(2);
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < correct.size(); ++thread) {
    threads.emplace_back([&, thread] {
      for (auto i = static_cast<int64_t>(thread); i < digits.num_batches(); i += 2) {
        const auto batch = digits.get(/*epoch=*/0, i);
        correct[thread] += (fast(batch.images).argmax(1) == batch.labels).sum().item<int64_t>();
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  std::cout << correct[0] + correct[1] << " of " << digits.num_examples()
            << " digits are recognized\n";

  bsconv::weights::save_weights(folder / "digits.pth", bsconv::weights::state_dict(*model));
  bsconv::export_onnx(model, torch::zeros({1, 3, 32, 32}), folder / "digits.onnx");
  for (const std::string name : {"digits.pth", "digits.onnx"}) {
    std::cout << name << ": " << std::filesystem::file_size(folder / name) / 1024 << " KiB\n";
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << "deploy: " << error.what() << '\n';
  return 1;
}
