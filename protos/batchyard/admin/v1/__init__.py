"""The contract of those who run Batchyard: `AdminServiceStub` for clients, and its messages."""

from batchyard.admin.v1.admin_service_pb2 import (
    AdoptBatchRequest,
    AdoptBatchResponse,
    AdoptFileRequest,
    AdoptFileResponse,
    CheckHealthRequest,
    CheckHealthResponse,
    Deployment,
    DeploymentState,
    Endpoint,
    ListDeploymentsRequest,
    ListDeploymentsResponse,
    Member,
)
from batchyard.admin.v1.admin_service_pb2_grpc import (
    AdminServiceServicer,
    AdminServiceStub,
    add_AdminServiceServicer_to_server,
)

__all__ = [
    "AdminServiceServicer",
    "AdminServiceStub",
    "AdoptBatchRequest",
    "AdoptBatchResponse",
    "AdoptFileRequest",
    "AdoptFileResponse",
    "CheckHealthRequest",
    "CheckHealthResponse",
    "Deployment",
    "DeploymentState",
    "Endpoint",
    "ListDeploymentsRequest",
    "ListDeploymentsResponse",
    "Member",
    "add_AdminServiceServicer_to_server",
]
