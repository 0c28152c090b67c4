//! The codec of every call: protobuf, whose decoder says that it was the server
//! who sent what is no message. The crate that has the contract has one for the
//! other side, which blames the caller.

use std::{fmt, marker::PhantomData};

use prost::{DecodeError, Message};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

/// Encodes `Q` and decodes `R`.
pub(crate) struct ClientCodec<Q, R>(PhantomData<fn(Q) -> R>);

impl<Q, R> Default for ClientCodec<Q, R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Q, R> Codec for ClientCodec<Q, R>
where
    Q: Message + 'static,
    R: Message + Default + 'static,
{
    type Encode = Q;
    type Decode = R;
    type Encoder = ProstEncoder<Q>;
    type Decoder = MessageDecoder<R>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

/// Decodes `R`.
pub(crate) struct MessageDecoder<R>(PhantomData<fn() -> R>);

impl<R: Message + Default> Decoder for MessageDecoder<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        R::decode(buffer).map(Some).map_err(|error| Status::from_error(Box::new(NoMessage::from(error))))
    }
}

/// What came is no message. Not to be taken for a fault of the transport, after
/// which the same would be asked for again.
#[derive(Debug)]
pub(crate) struct NoMessage(DecodeError);

impl From<DecodeError> for NoMessage {
    fn from(error: DecodeError) -> Self {
        Self(error)
    }
}

impl fmt::Display for NoMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server sent what is no message: {}", self.0)
    }
}

impl std::error::Error for NoMessage {}
