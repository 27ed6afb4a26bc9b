//! `mesh-agent certs`: the certificates of this node, and whether they are renewed in time.

use clap::Args;

use super::{
    agent::AgentArgs,
    failure::Failure,
    output::{OutputArgs, View, listing},
    table::{Cell, Colour, Column, Detail, Tone},
    units,
};
use crate::admin::{
    Words as _,
    proto::{Certificate, CertificateStanding, ListCertificatesReply, ListCertificatesRequest},
};

/// What `certs` takes.
#[derive(Args, Debug)]
pub(super) struct CertsArgs {
    /// Only service accounts whose namespace/name contains this text
    #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
    name: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl CertsArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let request = ListCertificatesRequest { name: self.name };
        let reply = self
            .agent
            .call(async |mut agent| agent.list_certificates(request).await)?;
        self.output.show(&reply)
    }
}

impl View for ListCertificatesReply {
    fn text(&self, detail: Detail, colour: Colour) -> String {
        let columns = (
            vec![
                Column::text("ACCOUNT"),
                Column::text("STANDING"),
                Column::text("VALID UNTIL"),
                Column::text("RENEWAL"),
                Column::number("FAILURES"),
                Column::text("LAST ERROR").optional(),
            ],
            vec![
                Column::text("ID"),
                Column::text("SERIAL"),
                Column::text("VALID FROM"),
            ],
        );
        let rows = self
            .certificates
            .iter()
            .map(|certificate| (certificate.usual_cells(), certificate.wide_cells()));
        listing(detail, colour, columns, rows)
    }

    fn nothing(&self) -> Option<&'static str> {
        self.certificates
            .is_empty()
            .then_some("No certificates: no workload here, or no authority (`run --ca`).")
    }
}

impl Certificate {
    fn usual_cells(&self) -> Vec<Cell> {
        let tone = match self.standing() {
            CertificateStanding::Valid => Tone::Good,
            CertificateStanding::ExpiresSoon => Tone::Doubtful,
            _ => Tone::Bad,
        };
        vec![
            Cell::from(&self.account),
            Cell::from(CertificateStanding::word_of(self.standing)).tone(tone),
            Cell::from(moment(self.not_after)),
            Cell::from(moment(self.renewal_due)),
            Cell::from(self.failures.to_string()),
            Cell::from(&self.last_error),
        ]
    }

    fn wide_cells(&self) -> Vec<Cell> {
        vec![
            Cell::from(&self.id),
            Cell::from(&self.serial),
            Cell::from(moment(self.not_before)),
        ]
    }
}

/// A moment, or nothing where there is none yet.
fn moment(micros: u64) -> String {
    if micros == 0 {
        String::new()
    } else {
        units::date_and_time(micros)
    }
}
