"""A vLLM plugin that turns asynchronous scheduling on where the CPU platform forces it off.

On GPUs it is vLLM's default. With this, `step_with_batch_queue` and the real AsyncScheduler run on
a CPU: for measuring, not for serving. The tokens that come out were not checked.

    PYTHONPATH=benchmarks/async_on_cpu VLLM_PLUGINS=codesign,async_on_cpu vllm serve MODEL

ASYNC_MARK names a file for the class of the scheduler that was made.
"""

import os
from pathlib import Path


def register():
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    original = CpuPlatform.check_and_update_config.__func__

    def checked(cls, vllm_config):
        original(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(checked)
    construct = AsyncScheduler.__init__

    def constructed(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        if "ASYNC_MARK" in os.environ:
            Path(os.environ["ASYNC_MARK"]).write_text(type(self).__name__)

    AsyncScheduler.__init__ = constructed
