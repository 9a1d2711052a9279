/* headrace.pml - the protocol of DESIGN.md ("The protocol"), for Spin 6.5.
 * One process = one program; every atomic{} = one Redis script, one Postgres statement or one commit.
 * Compile-time switches choose the bounds, the faults, and which rule is broken (B_*) or added (X_*).
 * A "place" (root batch, position) is the index of the record instance, 0..NREC-1: every instance has one place for good.
 */
#ifndef NREC
#define NREC 3
#endif
#ifndef ID0
#define ID0 0
#endif
#ifndef ID1
#define ID1 1
#endif
#ifndef ID2
#define ID2 0
#endif
#define NID 3
#ifndef SEAL0
#define SEAL0 3            /* records in batch 0 */
#endif
#ifndef SEAL1
#define SEAL1 4            /* records in batch 1 */
#endif
#ifndef POISON
#define POISON 0           /* mask of records that kill every worker that handles them */
#endif
#ifndef REJM
#define REJM 0             /* mask of records that a worker may reject or keep (a lookup may change between attempts) */
#endif
#ifndef MAXF
#define MAXF 2             /* failures after which a batch is voided and split */
#endif
#ifndef NW
#define NW 2
#endif
#ifndef NP
#define NP 1
#endif
#ifndef CRW
#define CRW 0
#endif
#ifndef CRP
#define CRP 0
#endif
#ifndef EXP
#define EXP 1
#endif
#ifndef HEXP
#define HEXP 0
#endif
#ifndef PGC
#define PGC 0
#endif
#ifndef RQ
#define RQ 0
#endif
#ifndef SPUR
#define SPUR 0             /* reconciliations started with no reason */
#endif
#ifndef UNK
#define UNK 0              /* commits of the worker whose outcome it does not learn */
#endif
#ifndef RCR
#define RCR 0              /* Redis crash that loses a suffix of its writes */
#endif
#ifndef LOCKM
#define LOCKM 3            /* 0 one table, no lock; 1 control row FOR SHARE/flip, nobody owns; 2 the same + one promoter at a time; 3 LOCK TABLE, control row is a hint */
#endif

#ifndef CAREFUL
#define CAREFUL 0          /* KEYS: 1 a promotion may meet a refused row, and go on piece by piece */
#endif
#ifndef MAYDIE
#define MAYDIE 0
#endif
#ifndef LANES
#define LANES 1            /* pairs of staging tables; table 2*l+s is side s of lane l */
#endif
#define NT (2*LANES)
#ifndef KS0
#define KS0 3              /* KEYS: the keys of batch 0, a mask of two */
#endif
#ifndef KS1
#define KS1 3              /* KEYS: the keys of batch 1 */
#endif
#define NROOT 2
#define CH0 2              /* child of record r: CH0+r */
#define RQ0 5              /* requeued record r: RQ0+r */
#ifdef DYN
#define NB 12
#define ROW short
#else
#define NB 8
#define ROW byte
#endif
#define BIT(i) (1<<(i))
#define IDOF(r) ((r)==0 -> ID0 : ((r)==1 -> ID1 : ID2))
#define SINGLE(m) (((m)&((m)-1))==0)

#define NONE 0
#define FREE 1
#define LEASED 2
#define HANDED 3
#define PROM 1
#define VOID 2
#define DUP 2
#define REJ 3

/* ---- Redis */
byte rst[NB]; byte att[NB]; byte fails[NB]; byte rec[NB];
byte claim[NID];           /* 0 nobody, else (r+1)+4*generation */
byte deadm;                /* dead list */
byte ready;                /* DYN: the ready list, a mask */
byte vs[NREC];             /* X_SEALV: the sealed verdict of a place: 0 none, 1 fresh, 2+holder duplicate */
byte gen[NB];
byte vn[NB];               /* X_NONCE: nonce of the claim script's verdict, kept with the batch */
byte rn[NB];               /* X_NONCE: (Postgres) the nonce in the registry */
byte nonce;                /* X_NONCE: ghost, random numbers never repeat */
/* ---- Postgres: committed */
byte led[NB];
byte regT[NB];             /* registries: a mask of the tables in whose registry the batch is */
ROW rows[NT];              /* batches whose rows are in staging table t */
byte sd[NT*NB]; byte sr[NT*NB]; byte sh[NT*NB];   /* staged copy of b in t: duplicates, rejects, holders */
byte out[NREC]; byte dupof[NREC];  /* durable outcome, written by the promotion */
byte cur[LANES];           /* the open side of each lane */
/* ---- Postgres: locks of open transactions */
byte regx[NT*NB]; byte ledx[NB]; byte ctls; byte tabs[NT]; byte tabx[NT]; byte pmutex;
#ifdef KEYS
byte keyx[2];              /* keys of the target that an open promotion has written */
byte grpx;                 /* the same of a group of a roll-up */
byte turns; byte turnx;    /* the turn of the target: shared (mask of promoters), or one alone */
#endif
byte wtx[NW]; byte ptx[NP];
/* ---- programs */
byte wb[NW]; byte wtok[NW];
/* ---- fault budgets */
byte crw=CRW; byte crp=CRP; byte exp=EXP; byte hexp=HEXP; byte pgc=PGC; byte rq=RQ; byte spur=SPUR; byte unk=UNK; byte rcr=RCR;
byte poison=POISON;
byte relm;                 /* ghost: places whose claim was released after reject or death */
byte tcnt[NID];            /* ghost: rows in the target per id */
byte nextid;               /* DYN */
#ifdef B_VOIDASYNC
ROW voidas;                /* voids not flushed yet */
#endif
hidden byte r, i, n, q;

#if RCR
#ifdef X_WFENCE
/* X_WFENCE: the worker's claim is followed by WAITAOF on the same connection; staging begins only when it is acknowledged.
 * snap() is the durable point of the coming crash: a WAITAOF behind a claim made after it is never acknowledged before the crash;
 * one behind an earlier claim may be, at any time until the crash. wf: 0 connection broken (by the crash), 1 claim is before the
 * durable point, 2 after it. Later writes of others stay losable (the snapshot does not move). */
byte wf[NW];
#endif
bit snapped;
byte f_rst[NB]; byte f_att[NB]; byte f_fails[NB]; byte f_vn[NB]; byte f_claim[NID]; byte f_dead; byte f_ready; byte f_relm; byte f_vs[NREC];
inline snap() { 
  i=0; do :: i<NB -> f_rst[i]=rst[i]; f_att[i]=att[i]; f_fails[i]=fails[i]; f_vn[i]=vn[i]; i++ :: else -> break od;
  i=0; do :: i<NID -> f_claim[i]=claim[i]; i++ :: else -> break od;
  i=0; do :: i<NREC -> f_vs[i]=vs[i]; i++ :: else -> break od;
  f_dead=deadm; f_ready=ready; f_relm=relm; snapped=1 }
inline restore() {
  i=0; do :: i<NB -> rst[i]=f_rst[i]; att[i]=f_att[i]; fails[i]=f_fails[i]; vn[i]=f_vn[i]; i++ :: else -> break od;
  i=0; do :: i<NID -> claim[i]=f_claim[i]; i++ :: else -> break od;
  i=0; do :: i<NREC -> vs[i]=f_vs[i]; i++ :: else -> break od;
  deadm=f_dead; ready=f_ready; relm=f_relm;
  i=0; do :: i<NB -> f_rst[i]=0; f_att[i]=0; f_fails[i]=0; f_vn[i]=0; i++ :: else -> break od;
  i=0; do :: i<NID -> f_claim[i]=0; i++ :: else -> break od;
  i=0; do :: i<NREC -> f_vs[i]=0; i++ :: else -> break od;
  f_dead=0; f_ready=0; f_relm=0; snapped=0;
#ifdef X_WFENCE
  wf[0]=0;
#if NW>1
  wf[1]=0;
#endif
#endif
  }
#endif

/* invariants 2 and 4, at every step: each record is in exactly one column of the books */
inline books() {
#if RCR
  skip
#else
  r=0;
  do
  :: r<NREC ->
     n=0;
     if :: out[r]!=0 -> n++ :: else fi;
     if :: deadm&BIT(r) -> n++ :: else fi;
     if :: ready&BIT(r) -> n++ :: else fi;
     i=0;
     do :: i<NB -> if :: rst[i]!=NONE && (rec[i]&BIT(r)) && led[i]!=PROM -> n++ :: else fi; i++ :: else -> break od;
#ifndef NOBOOKS
     assert(n==1 || !((SEAL0|SEAL1)&BIT(r)));
#endif
     r++
  :: else -> break
  od; r=0; i=0; n=0
#endif
}

inline resetb(x) { rst[x]=NONE; att[x]=0; fails[x]=0;
#if RCR==0
 /* membership of a batch that is gone matters no more, except for stale workers that carry it */
#endif
}

/* one script: claims by place */
inline doclaim(dd,hh) {
  dd=0; hh=0; r=0;
  do
  :: r<NREC ->
     if
     :: rec[b]&BIT(r) ->
        if
#ifdef X_SEALV
        :: vs[r]>=2 -> dd=dd|BIT(r); hh=hh|((vs[r]-2)<<(2*r))
        :: vs[r]==1 -> skip
        :: vs[r]==0 && 
#else
        :: 
#endif
#if defined(B_RQNEWPLACE)
           (claim[IDOF(r)]==0 || claim[IDOF(r)]==(r+1)+4*gen[b])
#else
           (claim[IDOF(r)]==0 || (claim[IDOF(r)]&3)==r+1)
#endif
           ->
#ifdef X_GEN
           if :: claim[IDOF(r)]==0 || (claim[IDOF(r)]>>2) < gen[b] -> claim[IDOF(r)]=(r+1)+4*gen[b] :: else fi;
#elif defined(B_RQNEWPLACE)
           claim[IDOF(r)]=(r+1)+4*gen[b];
#else
           claim[IDOF(r)]=r+1;
#endif
#ifdef X_SEALV
           vs[r]=1
#endif
        :: else ->
           q=(claim[IDOF(r)]&3)-1;
           dd=dd|BIT(r); hh=hh|(q<<(2*r));
#ifdef CORR   /* strict 3: nobody is the duplicate of a place whose claim was given back, or of a duplicate */
           assert(!(relm&BIT(q)) && out[q]!=DUP);
#endif
#ifdef X_SEALV
           vs[r]=2+q
#endif
        fi
     :: else
     fi;
     r++
  :: else -> break
  od; r=0; q=0
}

/* give the claim of place r back, if that very place holds it */
inline relclaim(x,g) {
#if defined(X_GEN) || defined(B_RQNEWPLACE)
  if :: claim[IDOF(x)]==(x+1)+4*(g) -> claim[IDOF(x)]=0 :: else fi;
#else
  if :: claim[IDOF(x)]==x+1 -> claim[IDOF(x)]=0 :: else fi;
#endif
  relm=relm|BIT(x)
}

/* release the claims of what the DURABLE rejects table holds for batch b */
inline relrejects() {
  r=0;
  do :: r<NREC -> if :: (rec[b]&BIT(r)) && out[r]==REJ -> relclaim(r,gen[b]) :: else fi; r++ :: else -> break od; r=0
}
inline relmem(jj) { r=0; do :: r<NREC -> if :: (jj&BIT(r)) -> relclaim(r,gen[b]) :: else fi; r++ :: else -> break od; r=0 }

inline vreset() {
#ifdef X_CLAIMEXIST
  if :: rst[b]!=NONE -> r=0; do :: r<NREC -> if :: rec[b]&BIT(r) -> vs[r]=0 :: else fi; r++ :: else -> break od; r=0 :: else fi;
  vn[b]=0
#else
  skip
#endif
}
inline ack() { vreset(); rst[b]=NONE; books() }

/* one script: idempotent, does nothing if the batch is gone */
inline split() {
  if
  :: rst[b]!=NONE ->
     if
     :: SINGLE(rec[b]) ->
        deadm=deadm|rec[b]; vreset();
#ifndef B_DEADRELSEP
        r=0; do :: r<NREC -> if :: rec[b]&BIT(r) -> relclaim(r,gen[b]) :: else fi; r++ :: else -> break od; r=0;
#endif
        rst[b]=NONE
     :: else ->
        r=0;
        do
        :: r<NREC ->
           if :: rec[b]&BIT(r) ->
#if defined(DYN) && !defined(X_DETID)
              i=nextid; nextid++; assert(i<NB);
#else
              i=CH0+r;
#endif
              rst[i]=FREE; rec[i]=BIT(r); att[i]=0; fails[i]=0; vn[i]=vn[b]
           :: else fi; r++
        :: else -> break
        od; r=0; i=0;
        rst[b]=NONE
     fi
  :: else
  fi;
  books()
}

/* insert into ledger ... on conflict do nothing; then read what is there */
inline dovoid(kk) {
#ifdef B_NOVOID
  kk=VOID
#else
  if :: led[b]==0 -> led[b]=VOID; kk=VOID;
#ifdef B_VOIDASYNC
     voidas=voidas|BIT(b)
#endif
     :: else -> kk=led[b]
#ifdef B_VOIDACK
     ; kk=PROM
#endif
  fi
#endif
}

inline abortw(w) {
  i=0; do :: i<NT*NB -> if :: regx[i]==w+1 -> regx[i]=0 :: else fi; i++ :: else -> break od; i=0;
  ctls=ctls&(~BIT(w)); do :: i<NT -> tabs[i]=tabs[i]&(~BIT(w)); i++ :: else -> break od; i=0; wtx[w]=0
}
/* gives up what a promotion has written into the target, and its turn */
inline unwrite(p) {
#ifdef KEYS
  if :: keyx[0]==p+1 -> keyx[0]=0 :: else fi; if :: keyx[1]==p+1 -> keyx[1]=0 :: else fi;
  if :: grpx==p+1 -> grpx=0 :: else fi; if :: turnx==p+1 -> turnx=0 :: else fi; turns=turns&(~BIT(p))
#else
  skip
#endif
}
inline abortp(p) {
  i=0; do :: i<NB -> if :: ledx[i]==p+1 -> ledx[i]=0 :: else fi; i++ :: else -> break od; i=0;
  do :: i<NT -> if :: tabx[i]==p+1 -> tabx[i]=0 :: else fi; i++ :: else -> break od; i=0;
  unwrite(p);
  if :: pmutex==p+1 -> pmutex=0 :: else fi; ptx[p]=0
}

#define GF(x) (rst[x]==FREE && fails[x]<MAXF)
#define GX(x) (rst[x]==FREE && fails[x]>=MAXF)
#define GH(x) (rst[x]==HANDED && (regT[x]==0 || spur>0))
#ifdef DYN
#define MORE(G) :: G(8) -> b=8 :: G(9) -> b=9 :: G(10) -> b=10 :: G(11) -> b=11
#else
#define MORE(G)
#endif
#define PICK(G) :: G(0) -> b=0 :: G(1) -> b=1 :: G(2) -> b=2 :: G(3) -> b=3 :: G(4) -> b=4 :: G(5) -> b=5 :: G(6) -> b=6 :: G(7) -> b=7 MORE(G)
#define ANY(G) (G(0)||G(1)||G(2)||G(3)||G(4)||G(5)||G(6)||G(7) MOREANY(G))
#ifdef DYN
#define MOREANY(G) || G(8)||G(9)||G(10)||G(11)
#else
#define MOREANY(G)
#endif
#define DIEW :: atomic { crw>0 -> crw--; goto crash }
#define DIEP :: atomic { crp>0 -> crp--; goto crash }

proctype Worker(byte w) {
  byte b, tok, t, d, h, j, k, v;
idle:
end:
  atomic {
    if
    :: ANY(GF) -> if PICK(GF) fi; rst[b]=LEASED; att[b]++; tok=att[b]; wb[w]=b+1; wtok[w]=tok; goto work
    :: ANY(GX) -> if PICK(GX) fi; goto void
#ifdef DYN
    :: ready!=0 -> b=nextid; nextid++; assert(b<NB);
       if :: (ready&3)!=0 -> rec[b]=ready&3 :: else -> rec[b]=ready fi;
       ready=ready&(~rec[b]); rst[b]=LEASED; att[b]=1; fails[b]=0; tok=1; wb[w]=b+1; wtok[w]=tok; goto work
#endif
    fi
  };
work:
#ifdef X_EARLYCHK
  atomic { k=led[b]; if :: k==PROM -> k=0; goto ackit :: k==VOID -> k=0; goto fin :: else -> k=0 fi };
#endif
  if
  :: atomic { (rec[b]&poison)!=0 -> goto crash }
  :: atomic { /* claim, then the other stages */
#ifdef X_CLAIMFENCE
     if :: !(rst[b]==LEASED && att[b]==tok) -> goto out1 :: else fi;
#endif
#ifdef X_CLAIMEXIST
     if :: rst[b]==NONE -> goto out1 :: else -> skip fi;
#endif
#if defined(X_WFENCE) && RCR
     wf[w]=(snapped -> 2 : 1);
#ifdef B_FENCENOWRITE   /* a claim script that only hands back stored verdicts writes nothing, and WAITAOF waits for the connection's own writes */
     q=1; r=0; do :: r<NREC -> if :: (rec[b]&BIT(r)) && vs[r]==0 -> q=0 :: else fi; r++ :: else -> break od; r=0;
     if :: q==1 -> wf[w]=1 :: else fi; q=0;
#endif
#endif
     doclaim(d,h); j=0;
#ifdef X_NONCE
     if :: vn[b]==0 -> nonce++; vn[b]=nonce :: else fi; v=vn[b];
#endif
     if :: (rec[b]&REJM&(~d))!=0 -> j=rec[b]&REJM&(~d) :: true fi;
     if :: (rec[b]&poison)!=0 -> goto crash :: else fi
     }
  DIEW
  fi;
#if defined(X_WFENCE) && RCR
fence:
  if
  :: atomic { wf[w]==1 -> wf[w]=0 }                      /* WAITAOF says 1 */
#ifdef B_OTHERCONN
  :: atomic { wf[w]==0 -> skip }                         /* WAITAOF on a fresh connection: nothing to wait for */
#else
  :: atomic { wf[w]==0 -> d=0; h=0; j=0; goto work }     /* connection lost: claim again (or abandon: CRW) */
#endif
  DIEW
  fi;
#endif
stage1:
  if
  :: atomic { 
#if LOCKM==1 || LOCKM==2
     ctls=ctls|BIT(w);   /* the flip is short, so a share lock is always to be had */
#endif
     wtx[w]=1;
#if LANES>1
     if :: t=0 :: t=1 fi;   /* whichever: a redelivered batch may come into another lane than its first copy */
#else
     t=0;
#endif
     t=2*t+cur[t];
#if LOCKM==0
     t=0;
#endif
#ifdef B_NOLEDCHK
     k=0;
#else
     k=led[b];
#endif
     if
     :: k==PROM -> abortw(w); goto ackit
     :: k==VOID -> abortw(w); goto fin
     :: else
     fi }
  DIEW
  fi;
stage2:
  if
  :: atomic { wtx[w]==0 -> goto stage1 }
  :: atomic { wtx[w]==1 && regx[NB*t+b]==0 && tabx[t]==0 ->    /* unique index: waits for the other's open transaction; ROW EXCLUSIVE waits for ACCESS EXCLUSIVE */
#ifndef B_NOREGUNIQ
     if :: regT[b]&BIT(t) -> abortw(w); goto hand :: else fi;
     regx[NB*t+b]=w+1;
#endif
     tabs[t]=tabs[t]|BIT(w) }
  DIEW
  fi;
stage3:
  if
  :: atomic { wtx[w]==0 -> goto stage1 }
  :: atomic { wtx[w]==1 -> 
#ifdef B_NOREGUNIQ
     assert(!(rows[t]&BIT(b)));   /* the batch's rows would be in the table twice */
#endif
     regT[b]=regT[b]|BIT(t); rows[t]=rows[t]|BIT(b); sd[NB*t+b]=d; sr[NB*t+b]=j; sh[NB*t+b]=h; rn[b]=v; abortw(w) }
  :: atomic { wtx[w]==1 && unk>0 -> unk--; regT[b]=regT[b]|BIT(t); rows[t]=rows[t]|BIT(b); sd[NB*t+b]=d; sr[NB*t+b]=j; sh[NB*t+b]=h; rn[b]=v; abortw(w); goto stage1 }
  DIEW
  fi;
#ifdef B_RELEARLY
  atomic { relmem(j) };
#endif
hand:
  if
  :: atomic {
#ifdef B_NOTOKEN
     if :: rst[b]!=NONE -> rst[b]=HANDED :: else fi;
#else
     if :: rst[b]==LEASED && att[b]==tok -> rst[b]=HANDED :: else fi;
#endif
     goto out1 }
  DIEW
  fi;
void:
  if
  :: atomic { ledx[b]==0 -> dovoid(k); if :: k==PROM -> goto ackit :: else -> goto fin fi }
  DIEW
  fi;
ackit:
#ifdef B_RELAFTERACK
  if :: atomic { ack() } DIEW fi;
  if :: atomic { relrejects(); goto out1 } DIEW fi;
#elif defined(X_RELACK)   /* one script */
  if :: atomic { relrejects(); ack(); goto out1 } DIEW fi;
#else
  if
#ifdef B_RELMEM
  :: atomic { relmem(j) }
#else
  :: atomic { relrejects() }
#endif
  DIEW fi;
  if :: atomic { ack(); goto out1 } DIEW fi;
#endif
fin:
#ifdef B_DEADRELSEP
  if :: atomic { if :: rst[b]!=NONE && SINGLE(rec[b]) -> t=1 :: else -> t=0 fi; split(); if :: t==0 -> goto out1 :: else fi } DIEW fi;
  if :: atomic { r=0; do :: r<NREC -> if :: rec[b]&BIT(r) -> relclaim(r,gen[b]) :: else fi; r++ :: else -> break od; r=0; goto out1 } DIEW fi;
#else
  if :: atomic { split(); goto out1 } DIEW fi;
#endif
crash:
out1:
  atomic { abortw(w); wb[w]=0; wtok[w]=0; b=0; tok=0;
#if defined(X_WFENCE) && RCR
    wf[w]=0;
#endif
     t=0; d=0; h=0; j=0; k=0; v=0; goto idle }
}

inline snapshotS() {
  S=0; i=0; do :: i<NB -> if :: regT[i]&BIT(t) -> S=S|BIT(i) :: else fi; i++ :: else -> break od; i=0
}
#define GS0(x) (regT[x]&1)
#define GS1(x) (regT[x]&2)
#define GS2(x) (regT[x]&4)
#define GS3(x) (regT[x]&8)

#ifdef X_NONCE
#define GATEBAD(i) (rst[i]==NONE || vn[i]!=rn[i])
#else
#define GATEBAD(i) (rst[i]==NONE)
#endif
#ifdef B_LEDUNSORTED       /* one promoter enters its batches into the ledger in another order */
#define AT(b) (p==1 -> NB-1-(b) : (b))
#else
#define AT(b) (b)
#endif
#define KEYOF(b) ((b)==1 -> KS1 : KS0)
proctype Promoter(byte p) {
  byte t, b, k; ROW S, own;
#ifdef KEYS
  byte way, need;          /* way: 0 one statement in the order of the keys, 1 piece by piece in any order */
#endif
idle:
end:
#if LOCKM==0
  atomic { ANY(GS0) -> t=0; ptx[p]=1; snapshotS(); own=0; b=0 };
#elif LOCKM==1
  atomic { (ANY(GS0)||ANY(GS1)) && ctls==0 -> t=cur[0]; cur[0]=1-cur[0] };
  if :: atomic { ptx[p]=1; snapshotS(); own=0; b=0 } DIEP fi;
#elif LOCKM==2
  atomic { (ANY(GS0)||ANY(GS1)) && pmutex==0 -> pmutex=p+1; ptx[p]=1 };
  if :: atomic { ptx[p]==1 && ctls==0 -> t=cur[0]; cur[0]=1-cur[0] } :: atomic { ptx[p]==0 -> goto crash } DIEP fi;   /* flip commits in its own transaction; pmutex is a session-level advisory lock */
  if :: atomic { ptx[p]==1 -> snapshotS(); own=0; b=0 } :: atomic { ptx[p]==0 -> goto crash } DIEP fi;
#else
  atomic { if :: ANY(GS0) -> t=0 :: ANY(GS1) -> t=1
#if LANES>1
           :: ANY(GS2) -> t=2 :: ANY(GS3) -> t=3
#endif
           fi; if :: cur[t/2]==t%2 -> cur[t/2]=1-t%2 :: else fi };
  if :: atomic { tabs[t]==0 && tabx[t]==0 -> tabx[t]=p+1; ptx[p]=1; snapshotS(); own=0; b=0 } DIEP fi;
#endif
#ifdef X_GATE
  if :: atomic { ptx[p]==0 -> goto crash }
     :: atomic { ptx[p]==1 -> i=0; do :: i<NB -> if :: (S&BIT(i)) && GATEBAD(i) && led[i]==0 && ledx[i]==0 -> S=S&(~BIT(i)) :: else fi; i++ :: else -> break od; i=0;
#if RCR && !defined(B_NOFENCE)
        if :: snapped -> snap() :: else fi
#endif
     }
  DIEP fi;
#elif defined(X_FENCEONLY)
  if :: atomic { ptx[p]==0 -> goto crash }
     :: atomic { ptx[p]==1 -> 
#if RCR
        if :: snapped -> snap() :: else fi
#endif
     }
  DIEP fi;
#endif
led1:
  if
  :: atomic { ptx[p]==0 -> goto crash }
  :: atomic { ptx[p]==1 && b<NB && !(S&BIT(AT(b))) -> do :: b<NB && !(S&BIT(AT(b))) -> b++ :: else -> break od; goto led1 }
  :: atomic { ptx[p]==1 && b<NB && (S&BIT(AT(b))) && ledx[AT(b)]==0 ->
#ifdef B_NOLEDGER
     own=own|BIT(AT(b));
#else
     if :: led[AT(b)]==0 -> ledx[AT(b)]=p+1; own=own|BIT(AT(b)) :: else
#ifdef B_LOSERKEEPS
        -> if :: led[AT(b)]==PROM -> own=own|BIT(AT(b)) :: else fi
#endif
     fi;
#endif
     b++; goto led1 }
  :: atomic { ptx[p]==1 && b>=NB -> b=0 }
  DIEP
  fi;
#ifdef KEYS
  atomic { if :: way=0 :: CAREFUL -> way=1 fi;
    need=0; b=0; do :: b<NB -> if :: own&BIT(b) -> need=need|KEYOF(b) :: else fi; b++ :: else -> break od; b=0 };
turn:
  if
  :: atomic { ptx[p]==0 -> goto crash }
  :: atomic { ptx[p]==1 && way==0 && turnx==0 -> turns=turns|BIT(p) }
#ifdef B_NOTURN
  :: atomic { ptx[p]==1 && way==1 }
#else
  :: atomic { ptx[p]==1 && way==1 && turnx==0 && turns==0 -> turnx=p+1 }
#endif
  DIEP
  fi;
#ifdef B_KEYUNSORTED
#define KEYAT(b) (p==1 -> 1-(b) : (b))
#else
#define KEYAT(b) (p==1 && way==1 -> 1-(b) : (b))
#endif
keys:
  if
  :: atomic { ptx[p]==0 -> goto crash }
  :: atomic { ptx[p]==1 && b<2 && !(need&BIT(KEYAT(b))) -> b++; goto keys }
  :: atomic { ptx[p]==1 && b<2 && (need&BIT(KEYAT(b))) && (keyx[KEYAT(b)]==0 || keyx[KEYAT(b)]==p+1) -> keyx[KEYAT(b)]=p+1; b++;
#ifndef B_PIECEMERGES
     if :: way==1 -> skip :: else -> goto keys fi
#endif
     }
  :: atomic { ptx[p]==1 && b>=2 -> skip }
  :: atomic { ptx[p]==1 && way==0 && CAREFUL -> unwrite(p); way=1; b=0; goto turn }   /* a row is refused: back to the savepoint */
  DIEP
  fi;
  if                                                       /* the merges: behind all keys, or behind each piece */
  :: atomic { ptx[p]==0 -> goto crash }
  :: atomic { ptx[p]==1 && (need==0 || grpx==0 || grpx==p+1) -> if :: need!=0 -> grpx=p+1 :: else fi; if :: b<2 -> goto keys :: else -> b=0 fi }
  DIEP
  fi;
#endif
  /* TRUNCATE wants ACCESS EXCLUSIVE; then commit */
  if
  :: atomic { ptx[p]==0 -> goto crash }
  :: atomic { ptx[p]==1 && tabs[t]==0 ->
     b=0;
     do
     :: b<NB ->
        if
        :: own&BIT(b) ->
           if
           :: !(rows[t]&BIT(b)) ->
#ifdef B_NOCOUNT
              led[b]=PROM
#else
              assert(0)   /* staged rows differ from the registry's count: is it reachable at all? */
#endif
           :: else ->
              led[b]=PROM; r=0;
              do
              :: r<NREC ->
                 if
                 :: rec[b]&BIT(r) ->
#if RCR==0 || defined(STRICT)
                    assert(out[r]==0);
#endif
                    if
                    :: sd[NB*t+b]&BIT(r) -> if :: out[r]==0 -> out[r]=DUP; dupof[r]=(sh[NB*t+b]>>(2*r))&3 :: else fi
                    :: else ->
                       if
                       :: sr[NB*t+b]&BIT(r) -> if :: out[r]==0 -> out[r]=REJ :: else fi
                       :: else -> 
#ifdef UNIQ
                          tcnt[IDOF(r)]=1;
#else
                          tcnt[IDOF(r)]++; assert(tcnt[IDOF(r)]<=1);
#endif
                          out[r]=PROM    /* invariant 1 */
                       fi
                    fi
                 :: else
                 fi; r++
              :: else -> break
              od; r=0
           fi
        :: else
        fi;
#if LOCKM==0 || LOCKM==1 || LOCKM==2
        if :: S&BIT(b) -> regT[b]=regT[b]&(~BIT(t)) :: else fi;
#else
        regT[b]=regT[b]&(~BIT(t));
#endif
        sd[NB*t+b]=0; sr[NB*t+b]=0; sh[NB*t+b]=0;
        if :: regT[b]==0 -> rn[b]=0 :: else fi;
        b++
     :: else -> break
     od;
     b=0; rows[t]=0;
#ifdef B_VOIDASYNC
     voidas=0;
#endif
     abortp(p); books() }
  DIEP
  fi;
ackl:
  if
  :: atomic { S==0 -> goto crash }
  :: atomic { S!=0 -> b=0; do :: !(S&BIT(b)) -> b++ :: else -> break od; S=S&(~BIT(b));
#ifdef B_ACKALL
     k=PROM;
#else
     k=led[b];
#endif
     if :: k==VOID -> split(); b=0; k=0; goto ackl :: else fi }
  DIEP
  fi;
#ifdef B_RELAFTERACK
  if :: atomic { ack() } DIEP fi;
  if :: atomic { relrejects(); b=0; k=0; goto ackl } DIEP fi;
#elif defined(X_RELACK)
  if :: atomic { relrejects(); ack(); b=0; k=0; goto ackl } DIEP fi;
#else
  if :: atomic { relrejects() } DIEP fi;
  if :: atomic { ack(); b=0; k=0; goto ackl } DIEP fi;
#endif
crash:
  atomic { abortp(p); t=0; S=0; own=0; b=0; k=0;
#ifdef KEYS
    way=0; need=0;
#endif
    goto idle }
}

proctype Reconciler() {
  byte b, tok, k, g;
idle:
end:
  atomic { ANY(GH) -> if PICK(GH) fi; if :: regT[b]!=0 -> spur-- :: else fi; tok=att[b] };
#ifdef B_LEDFIRST
  atomic { k=led[b] };
  atomic { g=regT[b] };
#else
  atomic { g=regT[b] };
  atomic { k=led[b] };
#endif
  if
  :: atomic { k==PROM -> 
#ifdef B_RELAFTERACK
     ack(); goto r1 
#elif defined(X_RELACK)
     relrejects(); ack(); goto done
#else
     relrejects(); goto r1
#endif
     }
  :: atomic { k==VOID -> split(); goto done }
  :: atomic { k==0 && g!=0 -> goto done }
  :: atomic { k==0 && g==0 ->
#ifdef B_RCNOFENCE
     if :: rst[b]!=NONE -> rst[b]=FREE :: else fi;
#else
     if :: rst[b]==HANDED && att[b]==tok -> rst[b]=FREE
#ifdef B_COUNTHANDED
        ; if :: fails[b]<MAXF -> fails[b]++ :: else fi
#endif
        :: else fi;
#endif
     goto done }
  fi;
r1:
#ifdef B_RELAFTERACK
  atomic { relrejects(); goto done };
#else
  atomic { ack(); goto done };
#endif
done:
  atomic { b=0; tok=0; k=0; g=0; goto idle }
}

#define LIVE(x) ((wb[0]==x+1 && wtok[0]==att[x]) LIVE1(x))
#if NW>1
#define LIVE1(x) || (wb[1]==x+1 && wtok[1]==att[x])
#else
#define LIVE1(x)
#endif
#define GL(x) (rst[x]==LEASED && (exp>0 || !LIVE(x)))
#define GHX(x) (rst[x]==HANDED)

proctype Env() {
  byte b;
end:
  do
  :: atomic { ANY(GL) -> if PICK(GL) fi; if :: LIVE(b) -> exp-- :: else fi; rst[b]=FREE; if :: fails[b]<MAXF -> fails[b]++ :: else fi; b=0 }
#if HEXP
  :: atomic { hexp>0 && ANY(GHX) -> if PICK(GHX) fi; hexp--; rst[b]=FREE;
#ifdef B_COUNTHANDED
     if :: fails[b]<MAXF -> fails[b]++ :: else fi;
#endif
     b=0 }
#endif
#if PGC
  :: atomic { pgc>0 -> pgc--;
       i=0; do :: i<NT*NB -> regx[i]=0; i++ :: else -> break od;
       i=0; do :: i<NB -> regT[i]=0; rn[i]=0; ledx[i]=0; 
#ifdef B_VOIDASYNC
         if :: voidas&BIT(i) -> led[i]=0 :: else fi;
#endif
       i++ :: else -> break od; i=0;
       do :: i<NT*NB -> sd[i]=0; sr[i]=0; sh[i]=0; i++ :: else -> break od; i=0;
#ifdef B_VOIDASYNC
       voidas=0;
#endif
       do :: i<NT -> rows[i]=0; tabs[i]=0; tabx[i]=0; i++ :: else -> break od; i=0;
       ctls=0; pmutex=0; wtx[0]=0; unwrite(0); unwrite(1);
#if NW>1
       wtx[1]=0; 
#endif
       ptx[0]=0;
#if NP>1
       ptx[1]=0;
#endif
       i=0 }
#endif
#if RQ
  :: atomic { rq>0 && deadm!=0 -> rq--; b=0; do :: !(deadm&BIT(b)) -> b++ :: else -> break od;
       deadm=deadm&(~BIT(b)); 
#ifdef CURE
       if :: poison=poison&(~BIT(b)) :: true fi;
#endif
       relm=relm&(~BIT(b)); vs[b]=0;
#if defined(DYN) && !defined(X_DETID)
       i=nextid; nextid++; assert(i<NB);
#else
       i=RQ0+b;
       if :: rst[i]!=NONE || led[i]!=0 -> i=CH0+NREC+NREC :: else fi; 
#endif
       rst[i]=FREE; rec[i]=BIT(b); att[i]=0; fails[i]=0; gen[i]=1; i=0; b=0; books() }
#endif
#if RCR
  :: atomic { !snapped && rcr>0 -> snap(); r=0; i=0 }
  :: atomic { snapped && rcr>0 -> rcr--; restore(); r=0; i=0 }
#endif
  od
}

init {
  atomic {
#ifdef DYN
    ready=(SEAL0|SEAL1); nextid=8;
#ifdef X_DETID
    nextid=8;
#else
    nextid=0;
#endif
#else
    rst[0]=FREE; rec[0]=SEAL0; 
#if SEAL1
    rst[1]=FREE; rec[1]=SEAL1;
#endif
#endif
    run Worker(0);
#if NW>1
    run Worker(1);
#endif
    run Promoter(0);
#if NP>1
    run Promoter(1);
#endif
    run Reconciler(); run Env()
  };
  /* quiescence: nothing in the system can move any more */
end:
  do
  :: atomic { timeout ->
     i=0; do :: i<NB -> 
#ifdef RCFULL
       skip;
#else
       assert(rst[i]==NONE); 
#endif
     i++ :: else -> break od;
     assert(ready==0);
     r=0;
     do
     :: r<NREC ->
        if
        :: !((SEAL0|SEAL1)&BIT(r)) -> skip
        :: else ->
           assert(out[r]!=0 || (deadm&BIT(r)));              /* invariant 2 */
#if RCR==0 || defined(STRICT)
           assert(!(out[r]!=0 && (deadm&BIT(r))));
#endif
#if RCR==0
           assert(!(deadm&BIT(r)) || (poison&BIT(r)) || MAYDIE);    /* only a poison record dies */
#endif
#ifdef CORR
           /* the claim of a record that ended rejected or dead was given back */
           assert(!(out[r]==REJ || (deadm&BIT(r))) || claim[IDOF(r)]==0 || (claim[IDOF(r)]&3)!=r+1);
#endif
           /* invariant 3: follow the duplicate to what survives */
           n=r; i=0;
           do :: out[n]==DUP && i<NREC+1 && !(deadm&BIT(n)) -> n=dupof[n]; i++ :: else -> break od;
           assert(out[n]==PROM || out[n]==REJ || (deadm&BIT(n)))
        fi;
        r++
     :: else -> break
     od; r=0; n=0; i=0; break }
  od
}
