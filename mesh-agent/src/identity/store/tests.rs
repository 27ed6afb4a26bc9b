//! The store against an issuer that can be made to fail, on a clock that the test moves.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use mesh_common::model::ObjectKey;
use rustls_pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::identity::authority::Authority;
use crate::identity::tests::kit::{HOUR, Hand, bundle, domain, meet};
use crate::identity::{Expected, IssueError, Request, Roots};

/// Signs, fails, or never answers.
struct Fake {
    hand: Hand,
    state: Mutex<State>,
    issued: AtomicUsize,
}

struct State {
    mood: Mood,
    signer: Arc<Authority>,
    roots: Vec<Arc<Authority>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Down,
    Silent,
    ForSomebodyElse,
}

impl Issuer for Fake {
    fn issue(&self, request: Request) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, IssueError>> {
        let (mood, signer) = {
            let state = self.state.lock().unwrap();
            (state.mood, Arc::clone(&state.signer))
        };
        Box::pin(async move {
            match mood {
                Mood::Well => {}
                Mood::Down => return Err(IssueError::unavailable(std::io::Error::other("on fire"))),
                Mood::Silent => std::future::pending().await,
                Mood::ForSomebodyElse => {
                    let key = crate::identity::LeafKey::generate().unwrap();
                    let csr = key.request(&request.id).unwrap();
                    return Ok(signer.leaf(&csr, &request.id, HOUR, self.hand.now()).unwrap());
                }
            }
            self.issued.fetch_add(1, Ordering::SeqCst);
            Ok(signer
                .leaf(&request.csr, &request.id, request.lifetime, self.hand.now())
                .unwrap())
        })
    }

    fn roots(&self) -> BoxFuture<'_, Result<Roots, IssueError>> {
        Box::pin(async {
            let state = self.state.lock().unwrap();
            if state.mood == Mood::Down {
                return Err(IssueError::unavailable(std::io::Error::other("on fire")));
            }
            Ok(Roots {
                trust_domain: state.signer.trust_domain().clone(),
                certificates: state
                    .roots
                    .iter()
                    .map(|root| root.certificate().clone())
                    .collect(),
            })
        })
    }
}

struct Rig {
    hand: Hand,
    fake: Arc<Fake>,
    store: Arc<CertificateStore>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn account(name: &str) -> ServiceAccountKey {
    ObjectKey::new("shop", name)
}

impl Rig {
    fn new(accounts: &[&str]) -> Self {
        Self::in_domain("mesh", accounts)
    }

    fn in_domain(trust_domain: &str, accounts: &[&str]) -> Self {
        let hand = Hand::with_tokio();
        let root = Arc::new(Authority::new_root(&domain("mesh"), 1000 * HOUR, hand.now()).unwrap());
        let fake = Arc::new(Fake {
            hand: hand.clone(),
            state: Mutex::new(State {
                mood: Mood::Well,
                signer: Arc::clone(&root),
                roots: vec![root],
            }),
            issued: AtomicUsize::new(0),
        });
        let settings = Settings::new(domain(trust_domain));
        let issuer: Arc<dyn Issuer> = Arc::clone(&fake) as _;
        let store = Arc::new(CertificateStore::new(settings, issuer, hand.clock()));
        store.want(accounts.iter().copied().map(account).collect());
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&store).run(stop.clone()));
        Self {
            hand,
            fake,
            store,
            stop,
            task,
        }
    }

    fn mood(&self, mood: Mood) {
        self.fake.state.lock().unwrap().mood = mood;
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn state(&self) -> CertificateState {
        self.store.states().remove(0)
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn every_wanted_account_gets_an_identity_and_loses_it_with_the_wish() {
    let rig = Rig::new(&["cart", "web"]);
    for name in ["cart", "web"] {
        let identity = rig.store.obtained(&account(name)).await;
        assert_eq!(
            identity.id().to_string(),
            format!("spiffe://mesh/ns/shop/sa/{name}")
        );
    }
    assert!(rig.store.current(&account("other")).is_none());
    let names: Vec<_> = rig
        .store
        .states()
        .into_iter()
        .map(|state| state.account)
        .collect();
    assert_eq!(names, [account("cart"), account("web")]);
    rig.store.want([account("web")].into());
    rig.pass(Duration::from_secs(1)).await;
    assert!(rig.store.current(&account("cart")).is_none());
    assert!(rig.store.current(&account("web")).is_some());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn renews_at_about_half_of_the_life() {
    let rig = Rig::new(&["cart"]);
    let first = rig.store.obtained(&account("cart")).await;
    rig.pass(9 * HOUR).await;
    assert_eq!(rig.fake.issued.load(Ordering::SeqCst), 1);
    rig.pass(6 * HOUR).await;
    assert_eq!(rig.fake.issued.load(Ordering::SeqCst), 2);
    let second = rig.store.current(&account("cart")).unwrap();
    assert_ne!(first.facts().serial, second.facts().serial);
    assert!(second.facts().not_after > first.facts().not_after);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_down_costs_nothing_until_the_end_and_is_noticed_before() {
    let rig = Rig::new(&["cart"]);
    let first = rig.store.obtained(&account("cart")).await;
    rig.mood(Mood::Down);
    rig.pass(20 * HOUR).await;
    let kept = rig.store.current(&account("cart")).unwrap();
    assert_eq!(kept.facts().serial, first.facts().serial);
    let state = rig.state();
    assert_eq!(state.standing, Standing::ExpiresSoon);
    assert!(state.failures > 3);
    let message = state.last_error.unwrap().message;
    assert_eq!(message, "the certificate authority is not available: on fire");
    assert!(rig.store.roots_error().is_some());
    assert!(rig.store.bundle().is_some(), "roots are kept too");
    rig.pass(5 * HOUR).await;
    assert!(
        rig.store.current(&account("cart")).is_none(),
        "not used after its end"
    );
    assert_eq!(rig.state().standing, Standing::Expired);
    rig.mood(Mood::Well);
    rig.pass(Duration::from_secs(600)).await;
    assert_eq!(rig.state().standing, Standing::Valid);
    assert!(rig.state().last_error.is_none() && rig.store.roots_error().is_none());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_stops_nothing() {
    let rig = Rig::new(&["cart"]);
    rig.store.obtained(&account("cart")).await;
    rig.mood(Mood::Silent);
    let accounts = (0..20).map(|n| account(&format!("a{n}")));
    rig.store.want(accounts.chain([account("cart")]).collect());
    rig.pass(Duration::from_secs(60)).await;
    assert!(rig.store.current(&account("cart")).is_some());
    let silent = rig.store.states().into_iter().filter(|state| {
        let told = state.last_error.as_ref().map(|error| error.message.as_str());
        told == Some("the certificate authority did not answer within 10s")
    });
    assert!(silent.count() > 8, "all get their turn");
    rig.mood(Mood::Well);
    rig.store.obtained(&account("a19")).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_another_key_is_not_used() {
    let rig = Rig::new(&[]);
    rig.mood(Mood::ForSomebodyElse);
    rig.store.want([account("cart")].into());
    rig.pass(Duration::from_secs(5)).await;
    assert!(rig.store.current(&account("cart")).is_none());
    assert_eq!(
        rig.state().last_error.unwrap().message,
        "the certificate authority's answer for spiffe://mesh/ns/shop/sa/cart cannot be used: it is for another key"
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn roots_of_another_trust_domain_are_not_believed() {
    let rig = Rig::in_domain("moon", &["cart"]);
    rig.pass(Duration::from_secs(5)).await;
    assert!(rig.store.current(&account("cart")).is_none() && rig.store.bundle().is_none());
    assert_eq!(
        rig.store.roots_error().unwrap().message,
        "the roots are those of mesh, not of our trust domain moon"
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_root_reaches_identities_at_once_and_leaves_soon() {
    let rig = Rig::new(&["cart", "web"]);
    let (cart, web) = (account("cart"), account("web"));
    let behind = rig.store.obtained(&web).await;
    rig.store.obtained(&cart).await;
    let new = Arc::new(Authority::new_root(&domain("mesh"), 1000 * HOUR, rig.hand.now()).unwrap());
    {
        let mut state = rig.fake.state.lock().unwrap();
        state.roots.push(Arc::clone(&new));
        state.signer = Arc::clone(&new);
    }
    rig.pass(Duration::from_secs(60)).await;
    assert_eq!(rig.fake.issued.load(Ordering::SeqCst), 4);
    let renewed = rig.store.current(&cart).unwrap();
    assert_eq!(renewed.bundle().roots().len(), 2);
    assert!(Arc::ptr_eq(renewed.bundle(), &rig.store.bundle().unwrap()));
    let alone = renewed.with_bundle(bundle(&[&new], 9));
    let web = rig.store.current(&web).unwrap();
    assert!(meet(&alone, &web, Expected::OurDomain).by_client.is_ok());
    assert!(meet(&alone, &behind, Expected::OurDomain).by_client.is_err());
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn problems_are_said_before_anything_fails() {
    let rig = Rig::new(&["cart"]);
    rig.store.obtained(&account("cart")).await;
    assert_eq!(rig.store.problems(), []);
    rig.mood(Mood::Down);
    let worst = || rig.store.problems().first().map(|problem| problem.severity);
    // Renewal is due between 0.4 and 0.6 of the life.
    rig.pass(15 * HOUR).await;
    assert_eq!(worst(), Some(Severity::Warning));
    let texts: Vec<_> = rig
        .store
        .problems()
        .into_iter()
        .map(|problem| problem.text)
        .collect();
    assert!(
        texts[0].starts_with("the certificate of shop/cart expires in 9h") && texts[0].contains("on fire"),
        "{texts:?}"
    );
    assert!(
        texts
            .iter()
            .any(|text| text.starts_with("the roots cannot be refreshed"))
    );
    assert!(rig.store.current(&account("cart")).is_some(), "nothing fails yet");
    assert!(rig.state().failures_ever > 0);
    rig.pass(10 * HOUR).await;
    assert_eq!(worst(), Some(Severity::Failure));
    let failures = rig.state().failures_ever;
    rig.mood(Mood::Well);
    rig.pass(Duration::from_secs(60)).await;
    assert_eq!(rig.store.problems(), []);
    assert_eq!(rig.state().failures_ever, failures, "counted for ever");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_ends_soon_is_said() {
    let rig = Rig::new(&["cart"]);
    rig.store.obtained(&account("cart")).await;
    // The root is made for 1000 hours: less than a third of that is left.
    rig.pass(700 * HOUR).await;
    let problems = rig.store.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].text.starts_with("the root ") && problems[0].text.contains("expires in 12days"),
        "{problems:?}"
    );
    assert_eq!(problems[0].severity, Severity::Warning);
    rig.end().await;
}
