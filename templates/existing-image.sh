# shellcheck shell=bash
# For images made for another control plane, whose start-up script has the worker's certificate signed
# by `curl ... /api/v0/sign_cert/`: source this in the on-start command, before that script is run.
#
#   source existing-image.sh
#   bash /the/image/s/own/start.sh
#
# From then on such a call goes to the control plane in REPORT_ADDR, with the worker's mtoken, which
# is in no command line; a refusal fails the call, in place of being saved as a certificate. Every
# other call of curl is as it was.

curl() {
    local argument arguments=() signing=""
    for argument in "$@"; do
        if [[ $argument =~ ^https?://[^/]+(/api/v0/sign_cert.*)$ ]]; then
            signing=yes
            argument=${REPORT_ADDR%%,*}
            argument=${argument%/}${BASH_REMATCH[1]}
        fi
        arguments+=("$argument")
    done
    if [[ -z $signing ]]; then
        command curl "$@"
        return
    fi
    command curl --fail --config <(printf 'header = "Authorization: Bearer %s"\n' "$MASTER_TOKEN") \
        "${arguments[@]}"
}
export -f curl
