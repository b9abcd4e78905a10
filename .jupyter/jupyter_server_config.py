"""Settings of `make lab`: for this computer only, behind a token, and every kernel works in the project's folder."""

import os

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

if os.environ.get("JUPYTER_TOKEN") == "":
    raise SystemExit("JUPYTER_TOKEN is empty: that would open the notebooks to anyone on this computer. Unset it.")


class ProjectKernelManager(AsyncMappingKernelManager):
    """Notebooks name their data and runs from the project's folder (data/..., runs/...), as papermill runs them."""

    def cwd_for_path(self, path, **kwargs):
        return self.root_dir


c = get_config()  # noqa: F821  (Jupyter defines it)
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.kernel_manager_class = ProjectKernelManager
c.LabApp.extension_manager = "readonly"                   # the other one asks a package index over the network
c.Application.log_level = "WARN"
