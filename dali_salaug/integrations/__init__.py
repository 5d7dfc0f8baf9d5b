"""The stage and the loader in training frameworks: one module for each, which alone imports its framework.

:mod:`dali_salaug.integrations.lightning`, :mod:`dali_salaug.integrations.timm` and
:mod:`dali_salaug.integrations.transformers`. Each takes the stage, or a loader, or both: the stage works on batches of
any loader, and a loader such as ``pipelines.image_loader`` serves a loop without a stage.
"""
