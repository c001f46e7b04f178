"""The RPCs of `batchyard.admin.v1.AdminService`: what is for those who run the service."""

from typing import TypeVar

from batchyard.admin.v1 import (
    AdminServiceServicer,
    AdoptBatchRequest,
    AdoptBatchResponse,
    AdoptFileRequest,
    AdoptFileResponse,
    CheckHealthRequest,
    CheckHealthResponse,
    CreateKeyRequest,
    CreateKeyResponse,
    ListDeploymentsRequest,
    ListDeploymentsResponse,
    ListKeysRequest,
    ListKeysResponse,
    RevokeKeyRequest,
    RevokeKeyResponse,
    RotateKeyRequest,
    RotateKeyResponse,
)
from batchyard.service.access.caller import current_caller
from batchyard.service.api.deployment_status import DeploymentStatus
from batchyard.service.api.key_admin import KeyAdmin, check_tenant
from batchyard.service.api.message_reader import Context
from batchyard.service.api.messages import batch_message, file_message
from batchyard.service.api.validation import required
from batchyard.service.background import Mutations
from batchyard.service.domain.keys import DEFAULT_TENANT
from batchyard.service.domain.records import BatchRecord, FileRecord
from batchyard.service.errors import AlreadyExists, PermissionDenied
from batchyard.service.providers.base import Provider
from batchyard.service.providers.router import Router

R = TypeVar("R", FileRecord, BatchRecord)


class AdminServicer(AdminServiceServicer):
    """Answers callers with the master key, whatever tenant they speak of; of health, any caller."""

    def __init__(self, router: Router, mutations: Mutations, deployed: DeploymentStatus, keys: KeyAdmin) -> None:
        self._router = router
        self._mutations = mutations
        self._deployed = deployed
        self._keys = keys

    async def AdoptFile(self, request: AdoptFileRequest, context: Context) -> AdoptFileResponse:
        provider, tenant = self._checked(request.provider, request.tenant)
        file = await self._mutations.run(provider.adopt_file(tenant, required(request.file_id, "file_id")))
        return AdoptFileResponse(file=file_message(_owned(file, tenant)))

    async def AdoptBatch(self, request: AdoptBatchRequest, context: Context) -> AdoptBatchResponse:
        provider, tenant = self._checked(request.provider, request.tenant)
        batch = await self._mutations.run(provider.adopt_batch(tenant, required(request.batch_id, "batch_id")))
        return AdoptBatchResponse(batch=batch_message(_owned(batch, tenant)))

    async def ListDeployments(self, request: ListDeploymentsRequest, context: Context) -> ListDeploymentsResponse:
        _check_master()
        return ListDeploymentsResponse(deployments=await self._deployed.listed())

    async def CheckHealth(self, request: CheckHealthRequest, context: Context) -> CheckHealthResponse:
        caller = current_caller.get()
        place = self._router.checked(request.provider, caller.key)
        return await self._deployed.checked(place, request.model, caller)

    async def CreateKey(self, request: CreateKeyRequest, context: Context) -> CreateKeyResponse:
        _check_master()
        return await self._mutations.run(self._keys.create(request))

    async def ListKeys(self, request: ListKeysRequest, context: Context) -> ListKeysResponse:
        _check_master()
        return await self._keys.listed(request)

    async def RotateKey(self, request: RotateKeyRequest, context: Context) -> RotateKeyResponse:
        _check_master()
        return await self._mutations.run(self._keys.rotate(request))

    async def RevokeKey(self, request: RevokeKeyRequest, context: Context) -> RevokeKeyResponse:
        _check_master()
        return await self._mutations.run(self._keys.revoke(request))

    def _checked(self, provider: str, tenant: str) -> tuple[Provider, str]:
        """Where to look, and for whom. Raises PermissionDenied, InvalidArgument."""
        _check_master()
        required(provider, "provider")
        if tenant:
            check_tenant(tenant)
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
