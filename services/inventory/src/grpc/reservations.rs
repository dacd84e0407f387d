//! `mercato.inventory.v1.ReservationService`.

use crate::{app::Reservations, convert, domain::Command, error::Error};
use chassis::error::status;
use mercato_chassis as chassis;
use mercato_contracts::mercato::inventory::v1::{
    CommitOutcome, CommitReservationRequest, CommitReservationsRequest, CommitReservationsResponse, GetReservationRequest,
    ReleaseReservationRequest, Reservation, ReservationStatus, ReserveRequest, reservation_service_server::ReservationService,
};
use tonic::{Request, Response, Status};

/// Serves holds to other services.
pub struct ReservationApi {
    /// What it serves.
    pub reservations: Reservations,
}

impl ReservationApi {
    async fn submit(&self, command: Result<Command, Error>) -> Result<Response<Reservation>, Status> {
        let hold = self.reservations.submit(command.map_err(status)?).await.map_err(status)?;
        Ok(Response::new(convert::reservation(&hold)))
    }
}

#[tonic::async_trait]
impl ReservationService for ReservationApi {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<Reservation>, Status> {
        self.submit(convert::reserve(request.get_ref())).await
    }

    async fn commit_reservation(&self, request: Request<CommitReservationRequest>) -> Result<Response<Reservation>, Status> {
        self.submit(convert::id(&request.get_ref().order_id).map(Command::Commit).map_err(Error::from)).await
    }

    async fn commit_reservations(
        &self,
        request: Request<CommitReservationsRequest>,
    ) -> Result<Response<CommitReservationsResponse>, Status> {
        let commits = request.into_inner().order_ids.into_iter().map(|order_id| async move {
            let order = convert::id(&order_id).map_err(status)?;
            let status = match self.reservations.submit(Command::Commit(order)).await {
                Ok(hold) => convert::status(hold.status),
                Err(Error::ReservationEnded { status, .. }) => convert::status(status),
                Err(Error::ReservationNotFound(_)) => ReservationStatus::Unspecified,
                Err(error) => return Err(status(error)),
            };
            Ok(CommitOutcome { order_id, status: status.into() })
        });
        let outcomes = futures_util::future::try_join_all(commits).await?;
        Ok(Response::new(CommitReservationsResponse { outcomes }))
    }

    async fn release_reservation(&self, request: Request<ReleaseReservationRequest>) -> Result<Response<Reservation>, Status> {
        self.submit(convert::id(&request.get_ref().order_id).map(Command::Release).map_err(Error::from)).await
    }

    async fn get_reservation(&self, request: Request<GetReservationRequest>) -> Result<Response<Reservation>, Status> {
        let order = convert::id(&request.get_ref().order_id).map_err(status)?;
        let hold = self.reservations.get(order).await.map_err(status)?;
        Ok(Response::new(convert::reservation(&hold)))
    }
}
