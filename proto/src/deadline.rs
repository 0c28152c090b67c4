//! The caller's deadline. It bounds the answer and, for a stream, all of it;
//! the work for the call ends with it. A started command goes on.

use std::time::Duration;

use http::{HeaderMap, Response};
use tokio::time::{Instant, sleep_until};
use tonic::{Status, body::Body};

use crate::{Error, Reason, body::Until};

/// Further away than any call lives.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// When the caller wants the call to be over, from `grpc-timeout`.
pub fn of(headers: &HeaderMap) -> Option<Instant> {
    let timeout = parse(headers.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout.min(LONGEST))
}

/// Up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = digits.len() <= 8 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| plain)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Answers by the deadline, one way or the other.
pub async fn bound(deadline: Option<Instant>, answer: impl Future<Output = Response<Body>>) -> Response<Body> {
    let Some(deadline) = deadline else { return answer.await };
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(response) => {
            let end = async move {
                sleep_until(deadline).await;
                passed()
            };
            response.map(|body| Body::new(Until::new(body, end)))
        }
        Err(_) => Status::from(passed()).into_http(),
    }
}

fn passed() -> Error {
    Error::new(Reason::DeadlineExceeded, "the call's deadline has passed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_with_its_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7_200))),
            ("3M", Some(Duration::from_secs(180))),
            ("5S", Some(Duration::from_secs(5))),
            ("7m", Some(Duration::from_millis(7))),
            ("11u", Some(Duration::from_micros(11))),
            ("13n", Some(Duration::from_nanos(13))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3_600))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("5", None),
            ("-5S", None),
            ("+5S", None),
            ("5\u{e4}", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
