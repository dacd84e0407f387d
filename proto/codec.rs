//! The codec of every server: decode, then check, then the handler.

use crate::validate::{self, Validate};
use prost::Message;
use std::marker::PhantomData;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

/// Encodes `E`, and decodes `D` only when it keeps every rule of its contract. Generated servers use it; clients do not, because a
/// client must tolerate what a newer server answers.
#[derive(Debug)]
pub struct Checked<E, D>(PhantomData<(E, D)>);

impl<E, D> Default for Checked<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for Checked<E, D>
where
    E: Message + Send + 'static,
    D: Message + Default + Validate + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = ProstEncoder<E>;
    type Decoder = CheckedDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CheckedDecoder { refused: None, message: PhantomData }
    }
}

/// The decoder of [`Checked`].
#[derive(Debug)]
pub struct CheckedDecoder<D> {
    /// After a refusal the stream stays refused: tonic would go on reading in the middle of a frame.
    refused: Option<Status>,
    message: PhantomData<D>,
}

impl<D: Message + Default + Validate> Decoder for CheckedDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        if let Some(status) = &self.refused {
            return Err(status.clone());
        }
        let refusal = match D::decode(&mut *buf) {
            Ok(message) => match validate::check(&message) {
                Ok(()) => return Ok(Some(message)),
                Err(violations) => violations.into_status(),
            },
            // The plain codec answers INTERNAL, an error of ours; bytes that are no message are the caller's.
            Err(error) => validate::malformed(&error),
        };
        self.refused = Some(refusal.clone());
        Err(refusal)
    }
}
