# SPDX-License-Identifier: BSD-3-Clause-Clear
#
# The examples, and what each must print.

bsconv_example(
  quickstart LIBRARIES bsconv::json bsconv::kernels OUTPUT
  "test accuracy: (9[7-9]|100).*Replaced 3 modules; parameters: 94,538 -> 13,866, 14.7 %.*output: ")
bsconv_example(replace_in_existing_model OUTPUT
               "Would replace 3 modules.*Replaced 2 modules.*replaced 2 layers, one step trained")
bsconv_example(
  zoo_and_profiler OUTPUT
  "cifar_resnet20_bsconvu: 46570 parameters, 7856484 multiply-adds.*Total +Network")
bsconv_example(replacement LIBRARIES bsconv::json bsconv::kernels OUTPUT
               "trained: 9.*. u . svd . 1 .*. u . data . 2 .*what was learned is kept")
bsconv_example(own_builder OUTPUT
               "tiny: .2, 7..*model name 'tinny_net'.*the nearest known name is 'tiny'")
bsconv_example(cuda OUTPUT "logits .4, 1000. on c")
bsconv_example(
  deploy LIBRARIES bsconv::json bsconv::onnx bsconv::pretrained bsconv::kernels OUTPUT
  "35[0-9] of 359 digits are recognized.*digits.pth: [0-9]+ KiB.*digits.onnx: [0-9]+ KiB")
