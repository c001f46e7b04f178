"""The RPCs of `batchyard.admin.v1.AdminService`: what is for those who run the service."""

import re
from typing import TypeVar

from batchyard.admin.v1 import (
    AdminServiceServicer,
    AdoptBatchRequest,
    AdoptBatchResponse,
    AdoptFileRequest,
    AdoptFileResponse,
    CheckHealthRequest,
    CheckHealthResponse,
    ListDeploymentsRequest,
    ListDeploymentsResponse,
)
from batchyard.service.auth import DEFAULT_TENANT, current_caller
from batchyard.service.calls import Context
from batchyard.service.deployed import Deployed
from batchyard.service.errors import AlreadyExists, InvalidArgument, PermissionDenied
from batchyard.service.messages import batch_message, file_message
from batchyard.service.mutations import Mutations
from batchyard.service.providers.base import Provider
from batchyard.service.registry.records import BatchRecord, FileRecord
from batchyard.service.router import Router

R = TypeVar("R", FileRecord, BatchRecord)

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AdminServicer(AdminServiceServicer):
    """Answers callers with the master key, whatever tenant they speak of; of health, any caller."""

    def __init__(self, router: Router, mutations: Mutations, deployed: Deployed) -> None:
        self._router = router
        self._mutations = mutations
        self._deployed = deployed

    async def AdoptFile(self, request: AdoptFileRequest, context: Context) -> AdoptFileResponse:
        provider, tenant = self._checked(request.provider, request.tenant)
        file = await self._mutations.run(provider.adopt_file(tenant, request.file_id))
        return AdoptFileResponse(file=file_message(_owned(file, tenant)))

    async def AdoptBatch(self, request: AdoptBatchRequest, context: Context) -> AdoptBatchResponse:
        provider, tenant = self._checked(request.provider, request.tenant)
        batch = await self._mutations.run(provider.adopt_batch(tenant, request.batch_id))
        return AdoptBatchResponse(batch=batch_message(_owned(batch, tenant)))

    async def ListDeployments(self, request: ListDeploymentsRequest, context: Context) -> ListDeploymentsResponse:
        _check_master()
        return ListDeploymentsResponse(deployments=await self._deployed.listed())

    async def CheckHealth(self, request: CheckHealthRequest, context: Context) -> CheckHealthResponse:
        place = self._router.checked(request.provider)
        return await self._deployed.checked(place, request.model, whole=current_caller.get().master)

    def _checked(self, provider: str, tenant: str) -> tuple[Provider, str]:
        """Where to look, and for whom. Raises PermissionDenied, InvalidArgument."""
        _check_master()
        if not provider:
            raise InvalidArgument("Missing required parameter: 'provider'.", param="provider")
        if tenant and not _TENANT.fullmatch(tenant):
            message = "Invalid 'tenant': expected at most 64 letters, digits, '.', '_' and '-'."
            raise InvalidArgument(message, param="tenant")
        return self._router.provider(self._router.checked(provider)), tenant or DEFAULT_TENANT


def _check_master() -> None:
    """Raises PermissionDenied."""
    if not current_caller.get().master:
        raise PermissionDenied("This takes the master key.")


def _owned(row: R, tenant: str) -> R:
    """Raises AlreadyExists for a row that is another tenant's."""
    if row.tenant != tenant:
        raise AlreadyExists(f"'{row.native_id}' is another tenant's already.", reason="OWNED")
    return row
