//! Names below a wildcard reach whoever runs that domain's name servers, and so their labels could carry something out. No rule
//! tells every such name from a host's; this one makes what carries much look different from what hosts are called, and the
//! limit on new names keeps what is left small.

/// Letters and digits in a row that no host's name has, but data has. Hashes of 128 bits in hexadecimal have 32.
const LONGEST_RUN: usize = 40;
/// Runs from this length on are looked at.
const SHORTEST_RUN: usize = 12;
/// Characters that look like data, in a whole name. Load balancers' names have up to 32 + 16.
const MOST: usize = 56;

/// Whether a name (in lower case, without the root's dot) looks as if it carried data.
pub(super) fn looks_like_data(name: &str) -> bool {
    let mut sum = 0;
    for run in name.split(|letter: char| !letter.is_ascii_alphanumeric()) {
        if run.len() >= SHORTEST_RUN && looks_random(run) {
            if run.len() >= LONGEST_RUN {
                return true;
            }
            sum += run.len();
        }
    }
    sum > MOST
}

/// Words have vowels, and seldom a digit within. Base32 has a digit in every five characters and a vowel in six, hexadecimal
/// has more digits than letters.
fn looks_random(run: &str) -> bool {
    let bytes = run.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let vowels = bytes.iter().filter(|byte| matches!(byte, b'a' | b'e' | b'i' | b'o' | b'u' | b'y')).count();
    let changes = bytes.windows(2).filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit()).count();
    let long = run.len() >= LONGEST_RUN && digits > 0;
    long || changes >= 3 || digits * 4 >= run.len() || vowels * 5 < run.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_are_called_passes() {
        for name in [
            "api.example",
            "d111111abcdef8.cloudfront.net",
            "d3a4b5c6d7e8f9.cloudfront.net",
            "my-bucket-with-a-rather-long-name-2026-production.s3.eu-central-1.amazonaws.com",
            "internal-my-load-balancer-for-the-shop-1234567890.us-east-1.elb.amazonaws.com",
            "a0123456789abcdef0123456789abcde-1234567890.eu-west-1.elb.amazonaws.com",
            "a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5-0123456789abcdef.elb.us-west-2.amazonaws.com",
            "k8s-default-frontend-0a1b2c3d4e-1234567890.eu-north-1.elb.amazonaws.com",
            "ec2-203-0-113-10.compute-1.amazonaws.com",
            "vpce-0123456789abcdef0-abcdefgh.execute-api.us-east-1.vpce.amazonaws.com",
            "abcdefghij.execute-api.us-east-1.amazonaws.com",
            "123456789012-abcdefghijklmnopqrstuvwxyz012345.apps.googleusercontent.com",
            "e0d5f0b0a2ea4e6b1ac4a9e6e4a6b4d1.safeframe.googlesyndication.com",
            "rr4---sn-4g5edn6k.googlevideo.com",
            "0f8fad5b-d9cb-469f-a165-70867728950e.blob.core.windows.net",
            "myaccount0123456789abcdef.privatelink.documents.azure.com",
            "e1234.dscb.akamaiedge.net",
            "a1b2c3d4e5f6g7.cdn.example",
            "xn--bcher-kva.example",
            "xn--80akhbyknj4f.example",
            "llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch.example",
            "thisisaverylongnamethatsomebodythoughtwasfunnytotype.example",
            "10.113.0.203.in-addr.arpa",
            "_dmarc.mail.example",
            "pixel-eu-west-1b.tracking.service.internal.example",
            "bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com",
            "feature-1234-add-support-for-something-else.preview.example",
        ] {
            assert!(!looks_like_data(name), "{name}");
        }
    }

    #[test]
    fn what_tunnels_send_does_not() {
        for name in [
            // Hexadecimal, as dnscat has it; base32, as iodine has it; several labels; short labels, but many; hyphens between.
            "6578616d706c6520646174612074686174206c6561766573.t.example",
            "mv4gc3lqnrssazdborqsa5dimf2canbamnqw64tsmvzq.t.example",
            "gezdgnbvgy3tqojqgezdgnbvgy3tqojqgezdgnbvgy3tqojqgezdgnbvgy3tqoj.t.example",
            "paaaabhdfkwmzbcqtrsvxwnpklmghjdfsrtpqzxcvbnmlkjhgf.t.example",
            "1f8b0800000000000003.4b4c4a06002a2a2a2a2a.0300c241243503000000.aabb01.t.example",
            "mv4gc3lqnrssazdborqsa5dimf2ca-nbamnqw64tsmvzq2ltuhfzxi33qmqq.t.example",
            "orugk3tfpb2g2zlto5s3k.mfzgkylhnbxw443fmq5gk.nbxgo5dfon2ca5dpei.t.example",
            "1234567890123456789012345678901234567890.t.example",
        ] {
            assert!(looks_like_data(name), "{name}");
        }
    }

    /// Data of many kinds, not only what somebody wrote down.
    #[test]
    fn forty_random_characters_do_not_pass() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for alphabet in ["abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdef", "0123456789abcdefghijklmnopqrstuv"] {
            for length in [40, 52, 63] {
                for _ in 0..2000 {
                    let label: String = (0..length)
                        .map(|_| {
                            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                            char::from(alphabet.as_bytes()[(state >> 33) as usize % alphabet.len()])
                        })
                        .collect();
                    assert!(looks_like_data(&format!("{label}.t.example")), "{label}");
                }
            }
        }
    }
}
