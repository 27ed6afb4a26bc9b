//! A certificate as the `ca` commands show it.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::super::{
    failure::Failure,
    output::by_detail,
    table::{Cell, Colour, Column, Detail, Table, Tone},
    units,
};
use crate::identity::Facts;

/// What a certificate says, and what it is for us.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    role: Role,
    #[serde(flatten)]
    facts: Facts,
    /// Microseconds since 1970, as everywhere.
    not_before_us: u64,
    not_after_us: u64,
    validity: Validity,
}

/// What a certificate is for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    /// The key to it is here, and signs.
    Signer,
    /// Believed.
    Root,
    /// In a file, without a key.
    Certificate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Validity {
    Valid,
    Expired,
    NotYetValid,
}

impl Row {
    pub(super) fn new(role: Role, facts: Facts, now: SystemTime) -> Self {
        let validity = if now > facts.not_after {
            Validity::Expired
        } else if now < facts.not_before {
            Validity::NotYetValid
        } else {
            Validity::Valid
        };
        Self {
            role,
            not_before_us: micros(facts.not_before),
            not_after_us: micros(facts.not_after),
            validity,
            facts,
        }
    }

    pub(super) fn read(
        role: Role,
        certificate: &CertificateDer<'_>,
        now: SystemTime,
    ) -> Result<Self, Failure> {
        let facts =
            Facts::of(certificate).map_err(|error| Failure::because("cannot read the certificate", error))?;
        Ok(Self::new(role, facts, now))
    }
}

/// Rows for people.
pub(super) fn table(rows: &[Row], now: SystemTime, detail: Detail, colour: Colour) -> String {
    let usual = ["ROLE", "NAME", "URI", "EXPIRES", "IN"].map(Column::text);
    let wide = ["SERIAL", "VALID FROM", "ISSUER"].map(Column::text);
    let mut table = Table::new(by_detail(detail, usual.to_vec(), wide.to_vec()));
    for row in rows {
        let facts = &row.facts;
        let role = match row.role {
            Role::Signer => "signer",
            Role::Root => "root",
            Role::Certificate => "certificate",
        };
        let left = row.not_after_us.saturating_sub(micros(now));
        let left = match row.validity {
            Validity::Valid => Cell::from(units::duration(left / 1_000_000 * 1_000_000)),
            Validity::Expired => Cell::from("expired").tone(Tone::Bad),
            Validity::NotYetValid => Cell::from("not yet valid").tone(Tone::Bad),
        };
        let usual = vec![
            Cell::from(role),
            Cell::from(&facts.subject),
            Cell::from(facts.uris.join(", ")),
            Cell::from(units::date_and_time(row.not_after_us)),
            left,
        ];
        let wide = vec![
            Cell::from(&facts.serial),
            Cell::from(units::date_and_time(row.not_before_us)),
            Cell::from(&facts.issuer),
        ];
        table.row(by_detail(detail, usual, wide));
    }
    table.render(colour)
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
